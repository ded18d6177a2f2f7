"""Whether anything else ran on this machine while something was measured: it would have been slower for it."""

from __future__ import annotations

import time

import psutil

ALLOWED = 0.05
"""Share of the machine's processor time that others may take before a sample counts as disturbed."""


class Others:
    """Counts the processor time of other processes from when it is made; children count once they have ended."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._busy, self._own = _busy(), _own()

    def share(self) -> float:
        """Return the part of all processors' time that others took, 0 to 1."""
        elapsed = (time.perf_counter() - self._started) * (psutil.cpu_count() or 1)
        return max(0.0, (_busy() - self._busy - (_own() - self._own)) / elapsed)


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def _own() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


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
