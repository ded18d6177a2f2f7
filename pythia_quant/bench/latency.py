"""What runs in a fresh process to measure speed and memory, called by name through :mod:`pythia_quant.core.process`."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from pythia_quant.bench.conditions import Others, read_speed
from pythia_quant.bench.subject import Subject
from pythia_quant.records.protocols import LatencyProtocol
from pythia_quant.records.results import Samples, SpeedProcess
from pythia_quant.runtimes.protocol import Runtime

ENOUGH_SECONDS, ENOUGH_SAMPLES = 10.0, 3
"""A prompt that took so long in all, warm-up included, is not prefilled again once it has so many samples."""
BRIEF_SECONDS = 0.5
"""A length whose samples took less in all is measured in the next pass, too."""
LONG_SECONDS = 60.0
"""After so long one sample is enough."""


def measure(
    subject: dict[str, Any], prompt: list[int], protocol: dict[str, Any], threads: int, weight_bytes: int
) -> dict[str, Any]:
    """Measure load time, prefill, decode and peak memory in this process, which must be fresh.

    Args:
        subject: what to open, a :class:`~pythia_quant.bench.subject.Subject` as data.
        prompt: token ids to take the prompts from, as many as the longest has.
        protocol: a :class:`~pythia_quant.records.results.LatencyProtocol` as data.
        threads: for the runtime.
        weight_bytes: read for each token; as many are read to find how fast memory is.

    Returns:
        A :class:`~pythia_quant.records.results.SpeedProcess` as data.

    Raises:
        ArtifactError: it cannot be loaded.
        BenchmarkError: it cannot run on the subject's device, or the lengths exceed its context.
    """
    target, lengths = Subject.model_validate(subject), LatencyProtocol.model_validate(protocol)
    target.import_runtime()
    on_gpu = target.device == "cuda"
    if on_gpu:
        torch.zeros(1, device="cuda")  # what CUDA itself holds is a library's, not the model's
    start_rss_bytes = psutil.Process().memory_info().rss

    others = Others()
    started = time.perf_counter()
    runtime = target.open_runtime(threads)
    if on_gpu:
        torch.cuda.synchronize()
    load_seconds = time.perf_counter() - started
    ids = torch.tensor(prompt)
    # Logits are handed over on the CPU, so a GPU has ended its work whenever one of these calls returns.
    first_token_seconds = _first_token(runtime, ids[: min(lengths.prompts)])
    prefill, decode = _in_passes(runtime, ids, lengths)
    share = others.share()
    peak_rss_bytes = peak_rss()
    peak_device_bytes = torch.cuda.max_memory_allocated() if on_gpu else None

    del runtime
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return SpeedProcess(
        load_seconds=load_seconds,
        first_token_seconds=first_token_seconds,
        prefill=[Samples(tokens=tokens, seconds=seconds) for tokens, seconds in prefill.items()],
        decode=[Samples(tokens=tokens, seconds=seconds) for tokens, seconds in decode.items()],
        start_rss_bytes=start_rss_bytes,
        peak_rss_bytes=peak_rss_bytes,
        peak_device_bytes=peak_device_bytes,
        # Last: the buffer is as large as the weights, and the peak would never fall again.
        read_bytes_per_second=read_speed(weight_bytes, threads, target.device),
        others=share,
    ).model_dump()


def _in_passes(
    runtime: Runtime, ids: Tensor, lengths: LatencyProtocol
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Return the seconds of each prompt's prefills and of each context's tokens.

    What is brief is measured again once all else was: what slows the machine for a moment then hits some of its
    samples, and not all of one length.
    """
    prefill: dict[int, list[float]] = {tokens: [] for tokens in lengths.prompts}
    decode: dict[int, list[float]] = {tokens: [] for tokens in lengths.contexts}
    for _ in range(lengths.passes):
        for tokens, seconds in prefill.items():
            if sum(seconds) < BRIEF_SECONDS:
                seconds.extend(repeat(partial(runtime.prefill, ids[:tokens], tokens), lengths))
        for tokens, seconds in decode.items():
            if sum(seconds) < BRIEF_SECONDS:
                seconds.extend(_decode(runtime, ids[:tokens], lengths))
    return prefill, decode


def repeat(
    run: Callable[[], object], lengths: LatencyProtocol, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the seconds of each run but those that warm up: at least one of those, and one that counts.

    Args:
        run: what is measured.
        lengths: says how often, where that does not take too long.
        clock: seconds that pass.
    """
    began, warmed = clock(), 0
    seconds: list[float] = []
    while len(seconds) < lengths.repetitions:
        started = clock()
        run()
        ended = clock()
        spent = ended - began
        if warmed < lengths.warm_up and (warmed == 0 or started - began < ENOUGH_SECONDS):
            warmed += 1
            continue
        seconds.append(ended - started)
        if spent >= (ENOUGH_SECONDS if len(seconds) >= ENOUGH_SAMPLES else LONG_SECONDS):
            break
    return seconds


def peak_rss() -> int:
    """Return the largest resident size this process had, in bytes."""
    # Not getrusage on Linux: its maximum begins with that of the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, else kibibytes


def _decode(runtime: Runtime, prompt: Tensor, lengths: LatencyProtocol) -> list[float]:
    count = lengths.warm_up + lengths.decoded
    token = int(runtime.prefill(prompt, len(prompt) + count).argmax())
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        token = int(runtime.step(token).argmax())
        seconds.append(time.perf_counter() - started)
    return seconds[lengths.warm_up :]


def _first_token(runtime: Runtime, prompt: Tensor) -> float:
    started = time.perf_counter()
    int(runtime.prefill(prompt, len(prompt)).argmax())
    return time.perf_counter() - started
