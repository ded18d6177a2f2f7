"""Whether anything else ran on this machine while something was measured: it would have been slower for it."""

from __future__ import annotations

import time
from typing import Any

import psutil

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
