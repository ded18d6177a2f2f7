"""About what the jobs of a study take: memory, disk and time, by the shape of the model and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from pythia_quant.artifacts.plan import artifact_bytes
from pythia_quant.bench.conditions import memory_needed
from pythia_quant.bench.durations import REFERENCE, Work, conversion_name, conversion_steps, measurement_steps
from pythia_quant.bench.subject import Subject
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.formats.table import format_of
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.source import open_without_weights
from pythia_quant.recipe.variants import parse_variant
from pythia_quant.sweep.jobs import FLOOR, Group, Job
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


def needs_of(groups: Sequence[Group], measured: Measured, threads: int) -> list[Needs]:
    """Return what the jobs of each source take.

    The shape and the weights' size are those of the first source of its size that can be opened.

    Raises:
        SourceError: no source of a size can be opened.
    """

    @cache
    def shape_of(size: str) -> tuple[Architecture, int]:
        alike = [group.source for group in groups if group.source.size == size]
        for source in alike:
            try:
                opened = open_without_weights(source.model, source.revision)
            except PythiaQuantError:
                if source is alike[-1]:
                    raise
            else:
                return opened.architecture, opened.weight_bytes
        raise AssertionError

    return [_needs(group, *shape_of(group.source.size), measured, threads) for group in groups]


def _needs(group: Group, shape: Architecture, weight_bytes: int, measured: Measured, threads: int) -> Needs:
    settings = group.recipe.settings
    context = settings.evaluation.context or shape.context
    windows = settings.evaluation.windows or _EVALUATION
    drawn = settings.calibration
    calibration = (drawn.windows, drawn.context or shape.context) if drawn else (0, shape.context)
    work = Work(shape, (windows, context), calibration, settings.latency.model_copy(update={"rounds": 0}))
    predict = _predictor(group, work, threads)
    # The source counts also where its row is done: what is left of a group runs as the whole group would.
    memory, sizes = [memory_needed(_floor(), weight_bytes, shape, context)], [0]
    for job in group.jobs:
        subject, size = _subject(job, shape)
        memory.append(memory_needed(subject, size or weight_bytes, shape, context))
        if subject.settings is not None:
            memory.append(format_of(subject.settings).costs(shape, calibration[0] * calibration[1]).memory)
        sizes.append(size)
    reference = 4 * shape.width * (2 * windows * context + shape.vocabulary)
    seconds = sum(measured.get((group.source.size, job.row)) or predict(job) for job in group.jobs)
    return Needs(max(memory), weight_bytes + reference + sum(sizes), sum(sizes), seconds)


def _subject(job: Job, shape: Architecture) -> tuple[Subject, int]:
    """Return what a job measures, and the bytes of its artifact; 0 for the source."""
    if job.settings is None:
        return _floor(), 0
    variant = parse_variant(job.settings)
    return Subject(name=job.row, folder=Path(), settings=variant), artifact_bytes(shape, variant)


def _floor() -> Subject:
    return Subject(name=FLOOR, folder=Path(), dtype="float16")


def _predictor(group: Group, work: Work, threads: int) -> Callable[[Job], float]:
    """Return a function that estimates the seconds of a job, for two cores or one thread alike."""
    rows = {job.row: None if job.settings is None else parse_variant(job.settings) for job in group.jobs}
    variants = {name: variant for name, variant in rows.items() if variant is not None}
    steps = [*conversion_steps(work, variants, ()), *measurement_steps(work, rows, list(rows), None, [threads])]
    seconds = {step.name: step.seconds for step in steps}
    share = seconds[REFERENCE] / len(rows)

    def predict(job: Job) -> float:
        converting = seconds.get(conversion_name(job.row, is_there=False), 0.0)
        return share + converting + seconds[f"drift of {job.row}"]

    return predict
