"""Progress of long work for Python programs: a bar, a function that is called, or silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from pythia_quant.core.console import progress_console
from pythia_quant.core.progress import SILENT, Notices, PartOf, Progress, Step, Steps

Listener = Progress | Callable[[str, int, int], object] | bool
"""Who is told of progress: true shows a bar on standard error, and a line a step where that is no terminal; false shows
nothing; a function is called with what is done, how many parts of it are done, and of how many; or a Progress."""


class _Call(Progress):
    """Calls a function with each step."""

    def __init__(self, function: Callable[[str, int, int], object]) -> None:
        self._function = function

    def step(self, what: str, done: int, total: int) -> None:
        self._function(what, done, total)


class _ReportedStep(Step):
    """Reports the parts of a step to a Progress."""

    def __init__(self, steps: Steps, name: str, progress: Progress) -> None:
        super().__init__(steps, name, None)
        self._reported = PartOf(name, progress)

    def step(self, what: str, done: int, total: int) -> None:
        self._reported.step(what, done, total)

    def notice(self, text: str) -> None:
        self._reported.notice(text)


class _ReportedSteps(Steps):
    """Reports named steps, and the parts of each, to a Progress."""

    def __init__(self, total: int, progress: Progress) -> None:
        super().__init__(total, Console(quiet=True))
        self._reported = progress

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        self._reported.step(name, self._done, self._total)
        yield _ReportedStep(self, name, self._reported)
        self._done += 1


def notices(listener: Listener) -> Progress:
    """Return the receiver of sentences that come before the first step."""
    if listener is True:
        return Notices(progress_console)
    return listener if isinstance(listener, Progress) else SILENT


def open_steps(total: int, listener: Listener) -> Steps:
    """Return the steps of a long job, which show themselves or report to a listener.

    Args:
        total: how many steps there will be.
        listener: who is told of them.
    """
    if listener is True:
        return Steps(total, progress_console)
    if isinstance(listener, Progress):
        return _ReportedSteps(total, listener)
    return _ReportedSteps(total, SILENT if listener is False else _Call(listener))
