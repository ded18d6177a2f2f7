"""The main job: recipe -> artifacts -> measurements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pythia_quant.artifact import Artifact, open_artifact
from pythia_quant.bench.benchmark import benchmark, step_count
from pythia_quant.conversion import artifact_folder, check_space, convert
from pythia_quant.errors import ArtifactError
from pythia_quant.formats import format_of
from pythia_quant.inputs import Inputs, load_inputs
from pythia_quant.progress import Steps
from pythia_quant.recipe import Recipe, RecipeSettings
from pythia_quant.results import RESULTS, Results, save_results


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: artifacts, and measurements with the file they are in."""

    artifacts: list[Artifact]
    results: Results
    path: Path


def convert_all(recipe: Recipe, out: Path, only: list[str], overwrite: bool, console: Console) -> list[Artifact]:
    """Convert the recipe's variants, or those in `only`; everything that can be checked first is.

    Raises:
        PythiaQuantError: the variants converted before it stay, the one it concerns leaves nothing.
    """
    names = list(recipe.variants(only))
    with Steps(1 + len(names), console) as steps:
        inputs = _inputs(recipe, names, out, steps, console)
        return [_convert(inputs, name, out, overwrite, steps) for name in names]


def run(recipe: Recipe, out: Path, only: list[str], overwrite: bool, console: Console) -> Outcome:
    """Convert the recipe's variants, measure each against the fp16 baseline, and write the result file.

    Raises:
        PythiaQuantError: see :func:`convert_all`; no result file is written.
    """
    names = list(recipe.variants(only))
    with Steps(1 + len(names) + step_count(len(names)), console) as steps:
        inputs = _inputs(recipe, names, out, steps, console)
        artifacts = [_convert(inputs, name, out, overwrite, steps) for name in names]
        results = benchmark(inputs, artifacts, steps)
    path = artifacts[0].folder.parent / RESULTS
    save_results(results, path)
    return Outcome(artifacts, results, path)


def bench(folders: list[Path], text: Path | None, console: Console) -> Outcome:
    """Measure artifacts of one source again, with the recipe in their manifest or on another text.

    Raises:
        PythiaQuantError: an artifact was altered, or they are of different sources; no result file is written.
    """
    artifacts = [open_artifact(folder.resolve()) for folder in folders]
    first = artifacts[0]
    for other in artifacts[1:]:
        if other.folder.parent != first.folder.parent:
            raise ArtifactError(
                f"is not beside {first.folder}",
                where=str(other.folder),
                hint="measure the artifacts of one source and revision in one call",
            )
    manifest = first.manifest
    settings = RecipeSettings.model_validate(manifest.recipe)
    recipe = Recipe(manifest.recipe_name, first.folder / "recipe", settings)
    recipe = recipe.overridden(revision=manifest.source.commit, text=text)
    with Steps(1 + step_count(len(artifacts)), console) as steps:
        inputs = _open(recipe, steps, console)
        results = benchmark(inputs, artifacts, steps)
    path = first.folder.parent / RESULTS
    save_results(results, path)
    return Outcome(artifacts, results, path)


def _inputs(recipe: Recipe, names: list[str], out: Path, steps: Steps, console: Console) -> Inputs:
    for settings in recipe.variants(names).values():
        format_of(settings)
    inputs = _open(recipe, steps, console)
    for name, settings in recipe.variants(names).items():
        target = artifact_folder(out, inputs.source, name)
        if not target.exists():
            check_space(inputs, settings, target)
    return inputs


def _open(recipe: Recipe, steps: Steps, console: Console) -> Inputs:
    with steps.step("opening source and texts") as report:
        return load_inputs(recipe, console.print, lambda what: report(what, 0, 1))


def _convert(inputs: Inputs, name: str, out: Path, overwrite: bool, steps: Steps) -> Artifact:
    with steps.step(f"converting {name}") as report:
        return convert(inputs, name, out, overwrite=overwrite, report=report)
