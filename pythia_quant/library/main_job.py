"""The main job: convert the variants of a recipe, measure them beside their source, and write the result file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.bench.durations import measurement_steps, work_of
from pythia_quant.bench.quick import quick_look, quick_recipe
from pythia_quant.core.progress import Steps
from pythia_quant.library.conversions import Announce, convert_each, expected_conversions, open_inputs
from pythia_quant.recipe.recipe import SOURCE_ROWS, Recipe
from pythia_quant.records.results import QUICK_RESULTS, RESULTS, Results, save_results
from pythia_quant.texts.lambada import Passages, load_passages

if TYPE_CHECKING:
    from pythia_quant.bench.rows import Options


@dataclass(frozen=True)
class Outcome:
    """The result of a job that measures.

    Attributes:
        artifacts: the artifacts that were measured.
        results: the measurements.
        path: the result file.
    """

    artifacts: list[Artifact]
    results: Results
    path: Path


def main_job_steps(recipe: Recipe, names: list[str], options: Options) -> int:
    """Return the number of progress steps of :func:`convert_and_measure`."""
    from pythia_quant.bench.benchmark import benchmark_steps  # noqa: PLC0415 - torch takes seconds to import

    measured = quick_recipe(recipe) if options.quick else recipe
    return 1 + len(names) + benchmark_steps(measured, len(names), options)


def convert_and_measure(
    recipe: Recipe,
    names: list[str],
    out: Path,
    steps: Steps,
    options: Options,
    *,
    overwrite: bool,
    announce: Announce | None = None,
) -> Outcome:
    """Convert variants, measure them, and write the result file beside them.

    Args:
        recipe: the recipe.
        names: the variants.
        out: the folder that holds all artifacts.
        steps: shows progress.
        options: how to measure.
        overwrite: replace artifacts that are there.
        announce: called before the first conversion with each variant that will be converted.

    Raises:
        PythiaQuantError: a conversion or a measurement failed; no result file is written, and artifacts made before
            stay.
    """
    from pythia_quant.bench.benchmark import benchmark  # noqa: PLC0415

    passages = open_passages(recipe, steps)
    inputs = open_inputs(recipe, names, out, steps, announce)
    measured, passages = quick_look(inputs, passages) if options.quick else (inputs, passages)
    rows = dict.fromkeys(SOURCE_ROWS) | recipe.variants(names)
    examples = passages.examples if passages else None
    measuring = measurement_steps(work_of(measured), rows, list(rows), examples, options.threads)
    steps.expect([*expected_conversions(inputs, names, out, overwrite=overwrite), *measuring])
    artifacts = convert_each(inputs, names, out, steps, overwrite=overwrite)
    path = artifacts[0].folder.parent / (QUICK_RESULTS if options.quick else RESULTS)
    results = benchmark(measured, artifacts, path, passages=passages, options=options, steps=steps)
    save_results(results, path)
    return Outcome(artifacts, results, path)


def open_passages(recipe: Recipe, steps: Steps) -> Passages | None:
    """Open LAMBADA's passages if the recipe asks for them."""
    settings = recipe.settings.tasks.lambada
    if settings is None:
        return None
    with steps.step("opening LAMBADA") as step:
        return load_passages(settings, step)
