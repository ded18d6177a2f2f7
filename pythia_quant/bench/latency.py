"""Measure the speed and memory of one row in this process, which :mod:`pythia_quant.core.process` has just started."""

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

from pythia_quant.bench.conditions import OtherPrograms, read_speed
from pythia_quant.bench.subject import Subject
from pythia_quant.records.protocols import LatencyProtocol
from pythia_quant.records.results import Samples, SpeedProcess
from pythia_quant.runtimes.protocol import Runtime

ENOUGH_SECONDS, ENOUGH_SAMPLES = 10.0, 3
"""A prompt is not prefilled again once it has so many samples and, with its warm-up, has taken so many seconds."""
BRIEF_SECONDS = 0.5
"""A length is measured again in the next pass if all its samples took less than this."""
LONG_SECONDS = 60.0
"""After so many seconds, one sample is enough."""


def measure_latency(
    subject: dict[str, Any], prompt: list[int], protocol: dict[str, Any], threads: int, weight_bytes: int
) -> dict[str, Any]:
    """Measure load time, prefill, decode and peak memory in this process, which must be fresh.

    Args:
        subject: the row's model, a :class:`~pythia_quant.bench.subject.Subject` as data.
        prompt: token ids, as many as the longest prompt has; each prompt is their beginning.
        protocol: a :class:`~pythia_quant.records.protocols.LatencyProtocol` as data.
        threads: the number of threads of the runtime.
        weight_bytes: the bytes of weights that are read for each token. A buffer of this size is read to measure the
            speed of memory.

    Returns:
        A :class:`~pythia_quant.records.results.SpeedProcess` as data.

    Raises:
        ArtifactError: the model cannot be loaded.
        BenchmarkError: the model cannot run on its device, or a length exceeds its context.
    """
    model, lengths = Subject.model_validate(subject), LatencyProtocol.model_validate(protocol)
    model.import_runtime()
    on_gpu = model.device == "cuda"
    if on_gpu:
        torch.zeros(1, device="cuda")  # what CUDA itself allocates is not counted as the model's
    start_rss_bytes = psutil.Process().memory_info().rss

    others = OtherPrograms()
    started = time.perf_counter()
    runtime = model.open_runtime(threads)
    if on_gpu:
        torch.cuda.synchronize()
    load_seconds = time.perf_counter() - started
    ids = torch.tensor(prompt)
    # A runtime returns logits on the CPU: when one of these calls returns, the GPU has finished its work.
    first_token_seconds = _first_token_seconds(runtime, ids[: min(lengths.prompts)])
    prefill, decode = _measure_in_passes(runtime, ids, lengths)
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
        # This comes last, because its buffer is as large as the weights and would raise the peak of the memory.
        read_bytes_per_second=read_speed(weight_bytes, threads, model.device),
        others=share,
    ).model_dump()


def _measure_in_passes(
    runtime: Runtime, ids: Tensor, lengths: LatencyProtocol
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Return the seconds of the prefills of each prompt, and of the tokens decoded after each context, by length.

    Lengths that take little time are measured in several passes over all lengths. If something slows the machine for a
    moment, it then affects some samples of several lengths, not all samples of one.
    """
    prefill: dict[int, list[float]] = {tokens: [] for tokens in lengths.prompts}
    decode: dict[int, list[float]] = {tokens: [] for tokens in lengths.contexts}
    for _ in range(lengths.passes):
        for tokens, seconds in prefill.items():
            if sum(seconds) < BRIEF_SECONDS:
                seconds.extend(repeat(partial(runtime.prefill, ids[:tokens], tokens), lengths))
        for tokens, seconds in decode.items():
            if sum(seconds) < BRIEF_SECONDS:
                seconds.extend(_decode_seconds(runtime, ids[:tokens], lengths))
    return prefill, decode


def repeat(
    run: Callable[[], object], lengths: LatencyProtocol, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the seconds of each run after the warm-up. There is at least one run of each kind.

    Args:
        run: the function to measure.
        lengths: the protocol, which says how often to run; slow runs are repeated less often.
        clock: a function that returns the time in seconds.
    """
    began, warm_ups = clock(), 0
    seconds: list[float] = []
    while len(seconds) < lengths.repetitions:
        started = clock()
        run()
        ended = clock()
        spent = ended - began
        if warm_ups < lengths.warm_up and (warm_ups == 0 or started - began < ENOUGH_SECONDS):
            warm_ups += 1
            continue
        seconds.append(ended - started)
        if spent >= (ENOUGH_SECONDS if len(seconds) >= ENOUGH_SAMPLES else LONG_SECONDS):
            break
    return seconds


def peak_rss() -> int:
    """Return the largest resident size that this process has had, bytes."""
    # Not getrusage on Linux, because its maximum begins with that of the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, else kibibytes


def _decode_seconds(runtime: Runtime, prompt: Tensor, lengths: LatencyProtocol) -> list[float]:
    count = lengths.warm_up + lengths.decoded
    token = int(runtime.prefill(prompt, len(prompt) + count).argmax())
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        token = int(runtime.step(token).argmax())
        seconds.append(time.perf_counter() - started)
    return seconds[lengths.warm_up :]


def _first_token_seconds(runtime: Runtime, prompt: Tensor) -> float:
    started = time.perf_counter()
    int(runtime.prefill(prompt, len(prompt)).argmax())
    return time.perf_counter() - started
