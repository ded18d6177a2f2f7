"""How fast memory is read now: decoding reads every weight once a token, so this is its limit.

Several kernels read a buffer of fp32; the fastest counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from pythia_quant.core.machine import memory_available

LARGEST = 4_000_000_000
"""Beyond every cache a larger buffer would be read no slower."""
_ROW = 1024


def read_speed(size: int, threads: int, device: str = "cpu") -> float:
    """Return bytes a second of the fastest kernel; see :func:`read_speeds`."""
    return max(read_speeds(size, threads, device).values())


def read_speeds(size: int, threads: int, device: str = "cpu", seconds: float = 0.15) -> dict[str, float]:
    """Return bytes a second of each kernel, the median of its repetitions.

    Args:
        size: of the buffer, in bytes; no more is taken than half of the memory that is free.
        threads: that read it, on the CPU.
        device: ``cpu`` or ``cuda``: whose memory.
        seconds: for each kernel, or five repetitions where they take longer.
    """
    torch.set_num_threads(threads)
    matrix = torch.ones(max(1, min(size, LARGEST, _free(device) // 2) // (4 * _ROW)), _ROW, device=device)
    vector, result = torch.ones(_ROW, device=device), torch.empty(len(matrix), device=device)
    kernels: dict[str, Callable[[], object]] = {
        "sum": matrix.sum,
        "maximum": matrix.amax,
        "matrix times vector": lambda: torch.mv(matrix, vector, out=result),
    }
    speeds = {}
    for name, kernel in kernels.items():
        samples: list[float] = []
        deadline = time.perf_counter() + seconds
        while len(samples) < 5 or time.perf_counter() < deadline:
            started = time.perf_counter()
            kernel()
            if device == "cuda":
                torch.cuda.synchronize()
            samples.append(time.perf_counter() - started)
        speeds[name] = matrix.nbytes / median(samples[2:])  # the first two warm up
    return speeds


def _free(device: str) -> int:
    return int(torch.cuda.mem_get_info()[0] if device == "cuda" else memory_available())
