"""What a run will do, and about what it will take, known before weights are downloaded or anything is computed."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.artifacts.inputs import Texts, fit, read_texts
from pythia_quant.artifacts.needs import artifact_bytes, conversion_needs
from pythia_quant.artifacts.plan import artifact_folder
from pythia_quant.bench.conditions import memory_needed
from pythia_quant.bench.durations import Work, conversion_steps, measurement_steps
from pythia_quant.bench.quick import PASSAGES, quick_recipe, quick_windows
from pythia_quant.bench.rows import Options
from pythia_quant.bench.subject import SOURCE_DTYPES
from pythia_quant.core.errors import without_links
from pythia_quant.core.machine import memory_available
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.table import format_of
from pythia_quant.model.source import Unread, open_without_weights
from pythia_quant.recipe.recipe import SOURCE_ROWS, Recipe
from pythia_quant.texts.lambada import load_passages


@dataclass(frozen=True)
class PlannedConversion:
    """A variant that will be converted.

    Attributes:
        variant: its name.
        is_there: whether its artifact is there; that is checked and not made again.
        bytes: the artifact's weights.
        scratch_bytes: the disk beside the artifact, while it is made.
        memory_bytes: the memory that making it takes.
        seconds: the time.
    """

    variant: str
    is_there: bool
    bytes: int
    scratch_bytes: int
    memory_bytes: int
    seconds: float


@dataclass(frozen=True)
class ExpectedRow:
    """A row that will be measured: the bytes of memory, and whether it is run whole; if not, no speed is measured."""

    row: str
    memory_bytes: int
    whole: bool


@dataclass(frozen=True)
class Forecast:
    """What a run will do, and about what it will take.

    Attributes:
        model: the source.
        revision: its revision.
        parameters: its parameters.
        download_bytes: its weights that are not here yet.
        evaluation: the windows that are measured and the tokens of each.
        calibration: the windows of calibration and the tokens of each; no windows if no variant calibrates.
        passages: the passages of LAMBADA; None if it is left out.
        rounds: the fresh processes that measure the speed of a row.
        conversions: in the order of the recipe, those whose integers others take included.
        rows: the rows of the table.
        measuring_seconds: the time of measurements by their kind: ``drift``, ``LAMBADA``, ``speed``.
        disk_bytes: the disk that all of it takes at most, with what is downloaded.
        free_disk_bytes: the disk that is free where artifacts go.
        memory_bytes: the memory that one step takes at most.
        free_memory_bytes: the memory that is free.
    """

    model: str
    revision: str
    parameters: int
    download_bytes: int
    evaluation: tuple[int, int]
    calibration: tuple[int, int]
    passages: int | None
    rounds: int
    conversions: list[PlannedConversion]
    rows: list[ExpectedRow]
    measuring_seconds: dict[str, float]
    disk_bytes: int
    free_disk_bytes: int
    memory_bytes: int
    free_memory_bytes: int

    @property
    def seconds(self) -> float:
        """The time of everything but downloads, seconds."""
        return sum(self.measuring_seconds.values()) + sum(one.seconds for one in self.conversions)


def forecast(
    recipe: Recipe, names: list[str], out: Path, options: Options, progress: Progress = SILENT, *, overwrite: bool
) -> Forecast:
    """Return what :func:`~pythia_quant.library.main_job.convert_and_measure` will do with these arguments.

    Texts, configuration and tokenizer are downloaded, read and checked, as the run does; weights are not.

    Raises:
        PythiaQuantError: the recipe does not fit the model, or a text or the model is missing.
    """
    source = open_without_weights(recipe.settings.source.model, recipe.settings.source.revision, progress)
    recipe = fit(recipe, source, progress, names)
    texts = read_texts(recipe, source, progress, convert=True, only=names)
    lambada = recipe.settings.tasks.lambada
    passages = load_passages(lambada, progress).examples if lambada else None
    if options.quick:
        recipe = quick_recipe(recipe, source.architecture.context)
        texts = texts._replace(evaluation=quick_windows(texts.evaluation))
        passages = passages and min(PASSAGES, passages)
    work = Work(source.architecture, texts.evaluation.shape, texts.calibration.shape, recipe.settings.latency)
    variants = recipe.variants(names)
    conversions = _conversions(recipe.needed(names), source, texts, work, out, overwrite=overwrite)
    sizes = {one.variant: one.bytes for one in conversions}
    rows = _rows(variants, source, sizes, texts, options)
    whole = [row.row for row in rows if row.whole]
    seconds = defaultdict[str, float](float)
    for step in measurement_steps(work, dict.fromkeys(SOURCE_ROWS) | variants, whole, passages, options.threads):
        seconds[step.kind.replace("wait", "speed")] += step.seconds
    made = [one for one in conversions if not one.is_there]
    scratch = max((one.scratch_bytes for one in made), default=0)
    place = artifact_folder(out, source, names[0])
    existing = next(folder for folder in without_links(place).parents if folder.exists())
    return Forecast(
        model=source.model,
        revision=source.revision,
        parameters=source.architecture.parameters,
        download_bytes=source.missing_bytes,
        evaluation=work.evaluation,
        calibration=work.calibration,
        passages=passages,
        rounds=recipe.settings.latency.rounds,
        conversions=conversions,
        rows=rows,
        measuring_seconds=dict(seconds),
        disk_bytes=source.missing_bytes + sum(one.bytes for one in made) + scratch,
        free_disk_bytes=shutil.disk_usage(existing).free,
        memory_bytes=max([row.memory_bytes for row in rows] + [one.memory_bytes for one in made]),
        free_memory_bytes=memory_available(),
    )


def _conversions(
    variants: Mapping[str, VariantSettings], source: Unread, texts: Texts, work: Work, out: Path, *, overwrite: bool
) -> list[PlannedConversion]:
    there = {name for name in variants if not overwrite and artifact_folder(out, source, name).exists()}
    planned = []
    for (name, settings), step in zip(variants.items(), conversion_steps(work, variants, there), strict=True):
        costs = format_of(settings).costs(settings, source.architecture, texts.calibration.size)
        size = artifact_bytes(source.architecture, settings)
        if name in there:
            size = open_artifact(artifact_folder(out, source, name)).manifest.bytes_on_disk
        memory = conversion_needs(source.architecture, settings, texts.calibration.size).memory
        planned.append(PlannedConversion(name, name in there, size, costs.disk, memory, step.seconds))
    return planned


def _rows(
    variants: Mapping[str, VariantSettings], source: Unread, sizes: Mapping[str, int], texts: Texts, options: Options
) -> list[ExpectedRow]:
    allowed = memory_available() if options.memory is None else options.memory
    shape, context = source.architecture, texts.evaluation.shape[1]
    needed = {row: memory_needed(dtype, source.weight_bytes, shape, context) for dtype, row in SOURCE_DTYPES.items()}
    needed |= {name: memory_needed(one, sizes[name], shape, context) for name, one in variants.items()}
    return [ExpectedRow(name, min(memory, allowed), memory <= allowed) for name, memory in needed.items()]
