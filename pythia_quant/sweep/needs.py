"""About what the jobs of a study take: memory, disk and time, by the shape of the model and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pythia_quant.artifacts.needs import artifact_bytes, conversion_needs
from pythia_quant.bench.conditions import memory_needed
from pythia_quant.bench.durations import REFERENCE, Work, conversion_name, conversion_steps, measurement_steps
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.settings import VariantSettings
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.source import open_without_weights
from pythia_quant.recipe.variants import parse_variant
from pythia_quant.sweep.jobs import Group
from pythia_quant.sweep.store import JobResult

_EVALUATION = 100
"""Windows that a text is taken to have for an estimate, where the recipe takes all of them."""


@dataclass(frozen=True)
class Needs:
    """What the jobs of one source take.

    Attributes:
        memory: bytes of memory at a time.
        disk: bytes on disk at a time: the source, its reference, and artifacts until they are measured.
        artifacts: bytes of all artifacts.
        seconds: the time of all jobs, one after the other.
    """

    memory: int
    disk: int
    artifacts: int
    seconds: float


Measured = Mapping[tuple[str, str], float]
"""The seconds of a job by the source's size and the row."""


def measured_seconds(groups: Sequence[Group], results: Mapping[str, JobResult]) -> Measured:
    """Return the median time of finished jobs by size and row; the reference counts in equal parts."""
    samples: dict[tuple[str, str], list[float]] = {}
    for group in groups:
        for job in group.jobs:
            if result := results.get(job.key):
                seconds = sum(result.seconds.values()) - result.seconds["reference"] * (1 - 1 / len(group.jobs))
                samples.setdefault((group.source.size, job.row), []).append(seconds)
    return {kind: median(seconds) for kind, seconds in samples.items()}


def needs_of(groups: Sequence[Group], measured: Measured) -> list[Needs]:
    """Return what the jobs of each source take.

    The shape and the weights' size are those of the first source of its size that can be opened.

    Raises:
        SourceError: no source of a size can be opened.
    """
    shapes: dict[str, tuple[Architecture, int]] = {}
    problems: dict[str, PythiaQuantError] = {}
    for source in (group.source for group in groups):
        if source.size not in shapes:
            try:
                opened = open_without_weights(source.model, source.revision)
            except PythiaQuantError as error:
                problems.setdefault(source.size, error)
            else:
                shapes[source.size] = opened.architecture, opened.weight_bytes
    for size, problem in problems.items():
        if size not in shapes:
            raise problem
    return [_needs(group, *shapes[group.source.size], measured) for group in groups]


def _needs(group: Group, shape: Architecture, weight_bytes: int, measured: Measured) -> Needs:
    settings = group.recipe.settings
    context = settings.evaluation.context or shape.context
    windows = settings.evaluation.windows or _EVALUATION
    drawn = settings.calibration
    calibration = (drawn.windows, drawn.context or shape.context) if drawn else (0, shape.context)
    variants = {job.row: parse_variant(job.settings) for job in group.jobs if job.settings is not None}
    sizes = {name: artifact_bytes(shape, variant) for name, variant in variants.items()}
    # The source counts also where its row is done: what is left of a group runs as the whole group would.
    memory = [memory_needed("float16", weight_bytes, shape, context)]
    memory += [memory_needed(variant, sizes[name], shape, context) for name, variant in variants.items()]
    for variant in group.recipe.needed(list(variants)).values() if variants else ():
        memory.append(conversion_needs(shape, variant, calibration[0] * calibration[1]).memory)
    reference = 4 * shape.width * (2 * windows * context + shape.vocabulary)
    work = Work(shape, (windows, context), calibration, settings.latency.model_copy(update={"rounds": 0}))
    predicted = _predicted(work, {job.row: variants.get(job.row) for job in group.jobs})
    seconds = sum(measured.get((group.source.size, row)) or predicted[row] for row in predicted)
    return Needs(max(memory), weight_bytes + reference + sum(sizes.values()), sum(sizes.values()), seconds)


def _predicted(work: Work, rows: Mapping[str, VariantSettings | None]) -> dict[str, float]:
    """Return the seconds of each row, of conversion and drift and its part of the reference, on a usual machine."""
    variants = {name: variant for name, variant in rows.items() if variant is not None}
    steps = [*conversion_steps(work, variants, ()), *measurement_steps(work, rows, list(rows), None, [])]
    seconds = {step.name: step.seconds for step in steps}
    share = seconds[REFERENCE] / len(rows)
    return {
        row: share + seconds.get(conversion_name(row, is_there=False), 0.0) + seconds[f"drift of {row}"] for row in rows
    }
