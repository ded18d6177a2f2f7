"""The conditions of a measurement: the machine, the speed of its memory, the memory needed, and other programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import psutil
import torch

from pythia_quant.core import machine
from pythia_quant.core.machine import memory_available
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.table import format_of
from pythia_quant.model.architecture import Architecture
from pythia_quant.records.results import Machine

LARGEST_BUFFER = 4_000_000_000
"""The largest buffer that is read, bytes. It exceeds every cache, so that a larger one would be read no slower."""

_ROW = 1024  # floats


def read_speed(size: int, threads: int, device: str = "cpu") -> float:
    """Return the bytes a second that the fastest kernel reads; for the arguments see :func:`read_speeds`."""
    return max(read_speeds(size, threads, device).values())


def read_speeds(size: int, threads: int, device: str = "cpu", seconds: float = 0.15) -> dict[str, float]:
    """Measure how fast each of several kernels reads memory.

    Args:
        size: the bytes of the buffer that is read; at most half of the free memory is used.
        threads: the number of threads that read it, on the CPU.
        device: ``cpu`` or ``cuda``, whose memory is read.
        seconds: the time for each kernel; five repetitions are made even if they take longer.

    Returns:
        The bytes a second of each kernel by its name, the median of its repetitions.
    """
    torch.set_num_threads(threads)
    matrix = torch.ones(max(1, min(size, LARGEST_BUFFER, _free_memory(device) // 2) // (4 * _ROW)), _ROW, device=device)
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


def _free_memory(device: str) -> int:
    return int(torch.cuda.mem_get_info()[0] if device == "cuda" else memory_available())


ALLOWED_SHARE = 0.05
"""The share of the machine's processor time that others may take before a measurement counts as disturbed."""


class OtherPrograms:
    """Counts the processor time that others take after this object was made.

    Others are other programs, and the host of a virtual machine. A child of this process counts as another program
    until it has ended.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._busy, self._own = busy_seconds(psutil.cpu_times()), _own_seconds()

    def share(self) -> float:
        """Return the share of all processors' time that others took, 0 to 1."""
        elapsed = (time.perf_counter() - self._started) * (psutil.cpu_count() or 1)
        others = busy_seconds(psutil.cpu_times()) - self._busy - (_own_seconds() - self._own)
        return min(1.0, max(0.0, others / elapsed))


def busy_seconds(times: Any) -> float:
    """Return the seconds in which processors were not idle, those of the host included.

    Args:
        times: the result of :func:`psutil.cpu_times`.
    """
    # The time of a guest is contained in the time of the user who runs it.
    not_busy = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(times) - sum(getattr(times, name, 0.0) for name in not_busy))


def wait_until_quiet(seconds: float) -> bool:
    """Wait until no other program takes more than the allowed share; return whether that happened within `seconds`."""
    deadline = time.perf_counter() + seconds
    while True:
        others = OtherPrograms()
        time.sleep(1)
        if others.share() <= ALLOWED_SHARE:
            return True
        if time.perf_counter() > deadline:
            return False


def _own_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def machine_record(device: str = "cpu") -> Machine:
    """Describe this machine. If `device` is ``cuda``, the accelerator is described, too."""
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


def memory_needed(model: VariantSettings | str | int, disk_bytes: int, shape: Architecture, tokens: int) -> int:
    """Estimate the bytes of memory that a row needs if its model is in memory whole.

    These are the weights in the runtime, and their files, which are mapped while they are read; two heads in fp32; and
    the logits of one window three times: as run, of the weights, and of the reference.

    Args:
        model: the settings of an artifact; the dtype of a source, as torch names it; or, of what others made, the bytes
            that its weights take in the runtime.
        disk_bytes: the bytes of the weights' files.
        shape: the shape of the model.
        tokens: the number of tokens in a window.
    """
    if isinstance(model, str):
        dtype: torch.dtype = getattr(torch, model)
        weights = shape.parameters * dtype.itemsize
    elif isinstance(model, int):
        weights = model
    else:
        weights = format_of(model).memory_bytes(model, shape, disk_bytes)
    return _LIBRARIES + weights + disk_bytes + 4 * shape.vocabulary * (2 * shape.width + 3 * tokens)
