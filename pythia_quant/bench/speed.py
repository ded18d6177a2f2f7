"""Measure the speed and memory of many rows in rounds of fresh processes, and say what disturbed a measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch

from pythia_quant.bench import latency
from pythia_quant.bench.conditions import ALLOWED_SHARE, wait_until_quiet
from pythia_quant.bench.speed_plan import PATIENCE, WAITING, rounds_of
from pythia_quant.bench.statistics import spread
from pythia_quant.bench.subject import Subject
from pythia_quant.core import machine, process
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.progress import Progress, Steps
from pythia_quant.model.config import read_config
from pythia_quant.records.protocols import LatencyProtocol
from pythia_quant.records.results import Samples, Speed, SpeedProcess

REPEATS = 2
"""The most repetitions of a measurement that other programs disturbed."""
PATIENCE_TO_REPEAT = 5.0
"""The most seconds to wait for a quiet machine before a repetition."""
BANDWIDTH_RANGE = 0.15
"""The largest harmless difference of the speeds at which memory was read, relative to the largest of them."""
DISAGREEMENT = 0.10
"""The most by which a process's median may lie outside the 10th to 90th percentile of the other processes' samples."""

Measure = Callable[[Subject, Sequence[int], LatencyProtocol, int, int], SpeedProcess]
"""A function from subject, prompt, protocol, threads and bytes of weights to the samples of one fresh process."""


def measure_speeds(
    subjects: Sequence[Subject],
    text: Sequence[int],
    protocol: LatencyProtocol,
    threads: Sequence[int],
    steps: Steps,
    *,
    measure: Measure | None = None,
    wait: Callable[[float], bool] = wait_until_quiet,
) -> list[list[Speed]]:
    """Measure all rows, round by round.

    Each round begins with another row, so that slow changes of the machine affect all rows alike. If other programs
    took more than :data:`ALLOWED_SHARE <pythia_quant.bench.conditions.ALLOWED_SHARE>` of the processors, a measurement
    is repeated when they have ended, and the least disturbed repetition counts.

    Args:
        subjects: the models of the rows, all of which fit in memory.
        text: token ids; each prompt is their beginning. If a prompt is longer, they are repeated.
        protocol: lengths, repetitions and rounds.
        threads: different numbers of threads. All rounds have the first; each of the others has one round.
        steps: shows progress; :func:`pythia_quant.bench.speed_plan.speed_steps` returns the number of steps.
        measure: the function that measures one row; by default :func:`measure_in_fresh_process`.
        wait: a function that waits until nothing else runs, at most so many seconds, and returns whether that happened.

    Returns:
        For each row, one speed for each of `threads`.

    Raises:
        ArtifactError: a row cannot be loaded.
        BenchmarkError: the process of a row died, or a row cannot run on its device.
    """
    measure = measure or measure_in_fresh_process
    prompt = list(islice(cycle(text), max(*protocol.prompts, *protocol.contexts)))
    weights = [weight_bytes(subject) for subject in subjects]
    processes: dict[tuple[int, int], list[SpeedProcess]] = {}
    with steps.step(WAITING):
        wait(PATIENCE)
    for number, (what, count) in enumerate(rounds_of(protocol.rounds, threads)):
        for row in _rotate(len(subjects), number):
            subject = subjects[row]
            once = partial(measure, subject, prompt, protocol, count, weights[row])
            with steps.step(f"speed of {subject.name}, {what}") as progress:
                processes.setdefault((row, count), []).append(_least_disturbed(once, wait, progress))
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


def _least_disturbed(
    measure: Callable[[], SpeedProcess], wait: Callable[[float], bool], progress: Progress
) -> SpeedProcess:
    """Measure, and repeat it while other programs disturb it; stop if the machine does not become quiet."""
    process = measure()
    for repeat in range(1, REPEATS + 1):
        if not _is_disturbed(process) or not wait(PATIENCE_TO_REPEAT):
            break
        progress.step("attempt", repeat, REPEATS + 1)
        process = min(process, measure(), key=lambda each: each.others or 0.0)
    return process


def measure_in_fresh_process(
    subject: Subject, prompt: Sequence[int], protocol: LatencyProtocol, threads: int, size: int
) -> SpeedProcess:
    """Call :func:`pythia_quant.bench.latency.measure_latency` in a fresh process.

    Args:
        subject: the model of the row.
        prompt: token ids, as many as the longest prompt has.
        protocol: lengths and repetitions.
        threads: the number of threads of the runtime.
        size: the bytes of weights that are read for each token.

    Raises:
        ArtifactError: the model cannot be loaded.
        BenchmarkError: the process died, or the model cannot run on its device.
    """
    arguments: dict[str, Any] = {
        "subject": subject.model_dump(mode="json"),
        "prompt": list(prompt),
        "protocol": protocol.model_dump(),
        "threads": threads,
        "weight_bytes": size,
    }
    try:
        measured = process.call(latency.measure_latency, arguments, threads)
    except BenchmarkError as error:
        raise BenchmarkError(f"measuring the speed of {subject.name}: {error.what}", hint=error.hint) from error
    return SpeedProcess.model_validate(measured)


def weight_bytes(subject: Subject) -> int:
    """Return the bytes of weights that are read to decode one token: of all weights but the embeddings.

    A token reads only one row of the embeddings. A source's weights are counted in the dtype it is run in. An
    artifact's weights are counted as its files store them, even if the runtime unpacks them to a larger dtype.

    Raises:
        ArtifactError: the artifact's files are missing or damaged.
        SourceError: ``config.json`` is missing or not understood.
    """
    if opener := subject.opener:
        return opener.streamed_bytes(subject.folder)
    shape = read_config(subject.folder / "config.json")
    dtype: torch.dtype = getattr(torch, subject.dtype or "")
    head = shape.vocabulary * shape.width  # a head reads its whole matrix, even one that is tied to the embeddings
    return (shape.non_embedding_parameters + head) * dtype.itemsize


def disturbance(processes: Sequence[SpeedProcess]) -> str:
    """Return, as text, what makes the samples of a row's processes doubtful; empty if nothing does."""
    others = max((process.others or 0.0 for process in processes), default=0.0)
    reads = [process.read_bytes_per_second for process in processes if process.read_bytes_per_second]
    apart, where = _disagreement(processes)
    reasons = []
    if others > ALLOWED_SHARE:
        reasons.append(f"other programs took {others:.0%} of the processors")
    if reads and max(reads) - min(reads) > BANDWIDTH_RANGE * max(reads):
        reasons.append(f"memory was read at {min(reads) / 1e9:.3g} to {max(reads) / 1e9:.3g} GB/s")
    if apart > DISAGREEMENT:
        reasons.append(f"samples of the {len(processes)} processes disagree by {apart:.0%} in {where}")
    return "; ".join(reasons)


def _disagreement(processes: Sequence[SpeedProcess]) -> tuple[float, str]:
    """Return how far a process's median lies outside the others' 10th to 90th percentile at most, and at which length.

    The distance is relative to the percentile.
    """
    parts = [("prefill of {} tokens", process.prefill) for process in processes]
    parts += [("decoding after {} tokens", process.decode) for process in processes]
    by_length: dict[str, list[Samples]] = {}
    for name, lengths in parts:
        for samples in lengths:
            by_length.setdefault(name.format(samples.tokens), []).append(samples)
    worst = (0.0, "")
    for where, samples_there in by_length.items():
        for one in samples_there:
            rest = [seconds for other in samples_there if other is not one for seconds in other.seconds]
            if rest:
                low, _, high = spread(rest)
                middle = spread(one.seconds)[1]
                worst = max(worst, (max(middle / high, low / middle) - 1, where))
    return worst


def _is_disturbed(process: SpeedProcess) -> bool:
    return (process.others or 0.0) > ALLOWED_SHARE


def _rotate(rows: int, turn: int) -> list[int]:
    return [(turn + row) % rows for row in range(rows)]
