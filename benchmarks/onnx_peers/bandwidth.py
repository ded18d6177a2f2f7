"""How fast this machine reads memory now: ``python bandwidth.py BYTES --threads 2`` prints one line of JSON.

Decoding reads every weight once a token, so this over a buffer of the weights' size is its limit. Several kernels read
a buffer of fp32; the fastest counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch

LARGEST = 4_000_000_000
"""Beyond every cache a larger buffer would be read no slower."""
_ROW = 1024
_SECONDS = 1.0


def read_speeds(size: int, threads: int) -> dict[str, float]:
    """Return bytes a second of each kernel, the median of its repetitions.

    Args:
        size: of the buffer, in bytes.
        threads: that read it.
    """
    torch.set_num_threads(threads)
    matrix = torch.ones(max(1, min(size, LARGEST) // (4 * _ROW)), _ROW)
    vector, result = torch.ones(_ROW), torch.empty(len(matrix))
    kernels: dict[str, Callable[[], object]] = {
        "sum": matrix.sum,
        "maximum": matrix.amax,
        "matrix times vector": lambda: torch.mv(matrix, vector, out=result),
    }
    speeds = {}
    for name, kernel in kernels.items():
        seconds: list[float] = []
        while len(seconds) < 5 or (sum(seconds) < _SECONDS and len(seconds) < 200):
            started = time.perf_counter()
            kernel()
            seconds.append(time.perf_counter() - started)
        speeds[name] = matrix.nbytes / median(seconds[2:])  # the first two warm up
    return speeds


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("bytes", type=int)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    print(json.dumps(read_speeds(given.bytes, given.threads)))
