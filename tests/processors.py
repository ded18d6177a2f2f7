"""What a test may take of the processors."""

from __future__ import annotations

import os
import resource
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

VARIABLE = "PYTHIA_QUANT_TEST_SECONDS"
MOST_SECONDS = 20.0
"""Of processor time, in a test or in what is set up for it. The clock on the wall would count what else runs."""
_SECONDS = pytest.StashKey[dict[str, float]]()


def share(environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Keep a worker of pytest-xdist to its part of the processors; threads of two workers on both are much slower.

    Called before torch is imported, which counts the processors then. Child processes inherit it.
    """
    worker, workers = environment.get("PYTEST_XDIST_WORKER"), environment.get("PYTEST_XDIST_WORKER_COUNT")
    if worker and workers and hasattr(os, "sched_setaffinity"):
        every = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, every[int(worker.removeprefix("gw")) % len(every) :: int(workers)])


def used() -> float:
    """Return the seconds that this process and its children that have ended took of all processors."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Limit:
    """Lets a test fail that took too long, or whose fixtures did; those for releases, marked slow, may.

    Args:
        seconds: the most, of processor time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        with _counted(item, "setup"):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        with _counted(item, "call"):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "call" and report.passed and item.get_closest_marker("slow") is None:
            for part, seconds in item.stash[_SECONDS].items():
                if seconds > self.seconds:
                    report.outcome = "failed"
                    report.longrepr = (
                        f"its {part} took {seconds:.1f} s of processor time, {self.seconds:g} are the most: "
                        f"make it faster, mark it slow, or allow more by {VARIABLE}"
                    )
        return report


@contextmanager
def _counted(item: pytest.Item, part: str) -> Iterator[None]:
    before = used()
    try:
        yield
    finally:
        item.stash.setdefault(_SECONDS, {})[part] = used() - before


def pytest_configure(config: pytest.Config) -> None:
    """Set the limit."""
    config.pluginmanager.register(Limit(float(os.environ.get(VARIABLE, MOST_SECONDS))), "limit of processor time")
