"""Speed and memory of many rows: rounds, a fresh process for each measurement, and whether something disturbed it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch

from pythia_quant.bench import latency
from pythia_quant.bench.conditions import ALLOWED, wait
from pythia_quant.bench.statistics import spread
from pythia_quant.bench.subject import Subject
from pythia_quant.core import machine, process
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.progress import Progress, Steps
from pythia_quant.formats.table import format_of
from pythia_quant.model.config import read_config
from pythia_quant.recipe.measurement import DECODED, LatencySettings
from pythia_quant.records.protocols import LatencyProtocol
from pythia_quant.records.results import Samples, Speed, SpeedProcess

PROMPTS = (128, 512, 2048)
CONTEXTS = (128, 384, 896, 1920)
"""So far from those of the suite's models that the decoded tokens fit behind them."""
WARM_UP = 2
REPETITIONS = 10
PASSES = 4
REPEATS = 2
"""Of a measurement that something else disturbed."""
PATIENCE = 20.0
"""Seconds to wait for a quiet machine before the first measurement."""
PATIENCE_TO_REPEAT = 5.0
WAITING = "waiting until nothing else runs"
"""The name of the step before the first measurement."""
BANDWIDTH_RANGE = 0.15
"""Of the speeds at which memory was read, largest less smallest over largest: beyond, the machine changed."""
DISAGREEMENT = 0.10
"""How far a process's median may lie outside the 10th to 90th percentile of the others' samples, relative to it."""

Measure = Callable[[Subject, Sequence[int], LatencyProtocol, int, int], SpeedProcess]
"""``(subject, prompt, protocol, threads, weight bytes) -> samples of one fresh process``."""


def latency_protocol(settings: LatencySettings, context: int) -> LatencyProtocol:
    """Return the lengths to measure a model of `context` tokens at: those of the recipe, or by default those that fit.

    A model too short for any of them has one prompt and one context of half its own.
    """
    half = max(1, context // 2)
    prompts = settings.prompts or [tokens for tokens in PROMPTS if tokens <= context] or [half]
    contexts = settings.contexts or [tokens for tokens in CONTEXTS if tokens + DECODED <= context] or [half]
    room = min(DECODED, context - max(contexts))
    warm_up = min(WARM_UP, room - 1)
    return LatencyProtocol(
        prompts=sorted(set(prompts)),
        contexts=sorted(set(contexts)),
        decoded=room - warm_up,
        repetitions=REPETITIONS,
        warm_up=warm_up,
        passes=PASSES,
        rounds=settings.rounds,
    )


def step_count(rows: int, rounds: int, sweeps: int = 0) -> int:
    """Return how many progress steps :func:`measure_speeds` takes; `sweeps` are the thread counts but the first."""
    return 1 + rows * (rounds + sweeps)


def measure_speeds(
    subjects: Sequence[Subject],
    text: Sequence[int],
    protocol: LatencyProtocol,
    threads: Sequence[int],
    steps: Steps,
    *,
    measure: Measure | None = None,
    quiet: Callable[[float], bool] = wait,
) -> list[list[Speed]]:
    """Measure all rows, round by round.

    Each round begins with another row, so that what changes slowly is shared by all. A measurement during which others
    took more of the processors than is allowed is repeated once they are gone, and the least disturbed one is kept.

    Args:
        subjects: the rows; all of them fit in memory.
        text: token ids to take the prompts from, from the start again where they are fewer than the longest prompt.
        protocol: lengths, repetitions and rounds.
        threads: the first for all rounds; one round is measured with each of the others, which are different ones.
        steps: shows progress; :func:`step_count` says how many steps are taken.
        measure: measures one row; by default :func:`measure_in_fresh_process`.
        quiet: waits so many seconds at most until nothing else runs, and says whether that came about.

    Returns:
        For each row one speed for each of `threads`.

    Raises:
        ArtifactError: a row cannot be loaded.
        BenchmarkError: its process died, or it cannot run on its device.
    """
    measure = measure or measure_in_fresh_process
    prompt = list(islice(cycle(text), max(*protocol.prompts, *protocol.contexts)))
    weights = [weight_bytes(subject) for subject in subjects]
    processes: dict[tuple[int, int], list[SpeedProcess]] = {}
    with steps.step(WAITING):
        quiet(PATIENCE)
    for number, (what, count) in enumerate(rounds_of(protocol.rounds, threads)):
        for row in _rotated(len(subjects), number):
            subject = subjects[row]
            once = partial(measure, subject, prompt, protocol, count, weights[row])
            with steps.step(f"speed of {subject.name}, {what}") as progress:
                processes.setdefault((row, count), []).append(_least_disturbed(once, quiet, progress))
    return [
        [
            Speed(
                device="cpu" if subject.device == "cpu" else machine.accelerator() or subject.device,
                threads=count,
                weight_bytes=weights[row],
                processes=processes[row, count],
                disturbed=disturbance(processes[row, count]),
            )
            for count in threads
        ]
        for row, subject in enumerate(subjects)
    ]


def rounds_of(rounds: int, threads: Sequence[int]) -> list[tuple[str, int]]:
    """Return the name of each round and its number of threads; the rounds themselves have the first number."""
    named = [(f"round {number + 1} of {rounds}", threads[0]) for number in range(rounds)]
    return named + [(f"{count} threads", count) for count in threads[1:]]


def _least_disturbed(
    measure: Callable[[], SpeedProcess], quiet: Callable[[float], bool], progress: Progress
) -> SpeedProcess:
    """Measure; repeat it while other programs disturb it, and a quiet machine can be had."""
    process = measure()
    for repeat in range(1, REPEATS + 1):
        if not _taken(process) or not quiet(PATIENCE_TO_REPEAT):
            break
        progress.step("attempt", repeat, REPEATS + 1)
        process = min(process, measure(), key=lambda each: each.others or 0.0)
    return process


def measure_in_fresh_process(
    subject: Subject, prompt: Sequence[int], protocol: LatencyProtocol, threads: int, size: int
) -> SpeedProcess:
    """Call :func:`pythia_quant.bench.latency.measure`; `size` are the weights read for each token, in bytes.

    Raises:
        ArtifactError: it cannot be loaded.
        BenchmarkError: its process died, or it cannot run on its device.
    """
    arguments: dict[str, Any] = {
        "subject": subject.model_dump(mode="json"),
        "prompt": list(prompt),
        "protocol": protocol.model_dump(),
        "threads": threads,
        "weight_bytes": size,
    }
    try:
        measured = process.call(latency.measure, arguments, threads)
    except BenchmarkError as error:
        raise BenchmarkError(f"measuring the speed of {subject.name}: {error.what}", hint=error.hint) from error
    return SpeedProcess.model_validate(measured)


def weight_bytes(subject: Subject) -> int:
    """Return the bytes of weights that one decoded token reads: all that are stored but the embeddings.

    Of those only a row is looked up. For a source they have the dtype it is run in; for an artifact they are the
    tensors of its files, without what lies around them, also where a runtime unpacks them to more.

    Raises:
        ArtifactError: the artifact's files are missing or damaged.
        SourceError: ``config.json`` is missing or not understood.
    """
    if subject.settings is not None:
        return format_of(subject.settings).streamed_bytes(subject.folder)
    shape = read_config(subject.folder / "config.json")
    dtype: torch.dtype = getattr(torch, subject.dtype or "")
    head = shape.vocabulary * shape.width  # reads its matrix, tied or not
    return (shape.non_embedding_parameters + head) * dtype.itemsize


def disturbance(processes: Sequence[SpeedProcess]) -> str:
    """Say what makes the samples of a row's processes doubtful; empty when nothing was noticed."""
    others = max((process.others or 0.0 for process in processes), default=0.0)
    reads = [process.read_bytes_per_second for process in processes if process.read_bytes_per_second]
    apart, where = _disagreement(processes)
    reasons = []
    if others > ALLOWED:
        reasons.append(f"other programs took {others:.0%} of the processors")
    if reads and max(reads) - min(reads) > BANDWIDTH_RANGE * max(reads):
        reasons.append(f"memory was read at {min(reads) / 1e9:.3g} to {max(reads) / 1e9:.3g} GB/s")
    if apart > DISAGREEMENT:
        reasons.append(f"samples of the {len(processes)} processes disagree by {apart:.0%} in {where}")
    return "; ".join(reasons)


def _disagreement(processes: Sequence[SpeedProcess]) -> tuple[float, str]:
    """Return by how much a process's median lies outside the others' 10th to 90th percentile at most, and where."""
    parts = [("prefill of {} tokens", process.prefill) for process in processes]
    parts += [("decoding after {} tokens", process.decode) for process in processes]
    measured: dict[str, list[Samples]] = {}
    for name, lengths in parts:
        for samples in lengths:
            measured.setdefault(name.format(samples.tokens), []).append(samples)
    worst = (0.0, "")
    for where, alike in measured.items():
        for one in alike:
            rest = [seconds for other in alike if other is not one for seconds in other.seconds]
            if rest:
                low, _, high = spread(rest)
                middle = spread(one.seconds)[1]
                worst = max(worst, (max(middle / high, low / middle) - 1, where))
    return worst


def _taken(process: SpeedProcess) -> bool:
    return (process.others or 0.0) > ALLOWED


def _rotated(rows: int, turn: int) -> list[int]:
    return [(turn + row) % rows for row in range(rows)]
