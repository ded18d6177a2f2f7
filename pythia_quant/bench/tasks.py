"""What runs in a fresh process of its own, called by name through :mod:`pythia_quant.isolate`."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from pythia_quant.bench.drift import Reference, measure_drift, reader_logits
from pythia_quant.bench.subject import Subject
from pythia_quant.results import Samples, SpeedProcess

WARM_UP = 2
PREFILL_SAMPLES = 10
PROMPT_TOKENS, DECODE_PROMPT_TOKENS, DECODE_TOKENS = 512, 128, 64


def quality(subject: dict[str, Any], reference: str, threads: int) -> dict[str, Any]:
    """Measure drift of the weights and as run; returns the fields of a :class:`~pythia_quant.results.Row`."""
    target = Subject.model_validate(subject)
    expected = Reference(Path(reference))
    ids, expected_logits = expected.ids(), expected.logits()
    reader = target.open_reader()
    weights = measure_drift(ids, expected_logits, reader_logits(reader, ids)) if reader else None
    runtime = target.open_runtime(threads)
    as_run = measure_drift(ids, expected_logits, lambda window: runtime.logits(ids[window : window + 1])[0])
    return {
        "runtime": runtime.description,
        "weights": weights.model_dump() if weights else None,
        "as_run": as_run.model_dump(),
    }


def speed(subject: dict[str, Any], prompt: list[int], context: int, threads: int) -> dict[str, Any]:
    """Measure load time, prefill, decode and peak memory; returns :class:`~pythia_quant.results.SpeedProcess` as data.

    Args:
        subject: what to open.
        prompt: token ids to take the prompts from.
        context: the model's context, which prompts and continuation stay within.
        threads: for the runtime.
    """
    target = Subject.model_validate(subject)
    target.import_runtime()
    start_rss_bytes = psutil.Process().memory_info().rss
    started = time.perf_counter()
    runtime = target.open_runtime(threads)
    load_seconds = time.perf_counter() - started

    long = torch.tensor(prompt[: min(PROMPT_TOKENS, context)])
    prefill_seconds = []
    for _ in range(WARM_UP + PREFILL_SAMPLES):
        started = time.perf_counter()
        runtime.prefill(long, len(long))
        prefill_seconds.append(time.perf_counter() - started)

    short = torch.tensor(prompt[: min(DECODE_PROMPT_TOKENS, context // 2)])
    count = min(DECODE_TOKENS + WARM_UP, context - len(short))
    decode_seconds = []
    token = int(runtime.prefill(short, len(short) + count).argmax())
    for _ in range(count):
        started = time.perf_counter()
        token = int(runtime.step(token).argmax())
        decode_seconds.append(time.perf_counter() - started)

    return SpeedProcess(
        load_seconds=load_seconds,
        first_token_seconds=None,
        prefill=[Samples(tokens=len(long), seconds=prefill_seconds[WARM_UP:])],
        decode=[Samples(tokens=len(short), seconds=decode_seconds[WARM_UP:])],
        start_rss_bytes=start_rss_bytes,
        peak_rss_bytes=_peak_rss(),
    ).model_dump()


def _peak_rss() -> int:
    # Not getrusage on Linux: its maximum begins with that of the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, else kibibytes
