"""What a measurement ran under: the machine, its bandwidth, its memory, and other programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import psutil
import torch

from pythia_quant.bench.subject import Subject
from pythia_quant.core import machine
from pythia_quant.core.machine import memory_available
from pythia_quant.formats.table import FORMATS
from pythia_quant.model.architecture import Architecture
from pythia_quant.records.results import Machine

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


ALLOWED = 0.05
"""Share of the machine's processor time that others may take before a measurement counts as disturbed."""


class Others:
    """Counts the processor time that others take from when it is made: programs, and the host of a virtual machine.

    This process's own children count as others until they have ended.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._busy, self._own = busy_seconds(psutil.cpu_times()), _own()

    def share(self) -> float:
        """Return the part of all processors' time that others took, 0 to 1."""
        elapsed = (time.perf_counter() - self._started) * (psutil.cpu_count() or 1)
        others = busy_seconds(psutil.cpu_times()) - self._busy - (_own() - self._own)
        return min(1.0, max(0.0, others / elapsed))


def busy_seconds(times: Any) -> float:
    """Return the seconds that processors were not idle, those the host took included, of :func:`psutil.cpu_times`."""
    # A guest's time is within that of the user that runs it.
    elsewhere = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(times) - sum(getattr(times, name, 0.0) for name in elsewhere))


def wait(seconds: float) -> bool:
    """Wait until nothing else runs; return whether that came about within `seconds`."""
    deadline = time.perf_counter() + seconds
    while True:
        others = Others()
        time.sleep(1)
        if others.share() <= ALLOWED:
            return True
        if time.perf_counter() > deadline:
            return False


def _own() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def machine_record(device: str = "cpu") -> Machine:
    """Describe this machine; `device` is ``cuda`` where an accelerator was used, which is then described too."""
    name, sets = machine.processor()
    return Machine(
        cpu=name,
        instruction_sets=sets,
        cores=machine.cores(),
        memory_bytes=machine.memory_total(),
        system=machine.system(),
        accelerator=machine.accelerator() if device == "cuda" else None,
        versions=machine.library_versions(),
    )


_LIBRARIES = 700_000_000  # torch, transformers and onnxruntime, imported


def needed(subject: Subject, disk_bytes: int, shape: Architecture, tokens: int) -> int:
    """Estimate the bytes that measuring a row takes with the model whole in memory.

    Weights as the runtime holds them, and their files, which are mapped while they are read; two heads in fp32; three
    times the logits of a window: as run, of the weights, and the reference's.

    Args:
        subject: the row.
        disk_bytes: of the weights' files.
        shape: of the model.
        tokens: in a window.
    """
    if subject.settings is None:
        dtype: torch.dtype = getattr(torch, subject.dtype or "")
        held = shape.parameters * dtype.itemsize
    else:
        held = FORMATS[subject.settings.format].held_bytes(subject.settings, shape, disk_bytes)
    return _LIBRARIES + held + disk_bytes + 4 * shape.vocabulary * (2 * shape.width + 3 * tokens)
