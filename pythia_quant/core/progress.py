"""How long work says how far it is, and what else a user should know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

Report = Callable[[str, int, int], None]
"""Called with what is being done, and how many steps of how many are done."""

Notice = Callable[[str], None]
"""Called with a sentence for the user."""


def silent(_step: str, _done: int, _total: int) -> None:
    """Report nothing."""


def say_nothing(_: str) -> None:
    """Show no sentence to the user."""


_SILENCE = 60
"""Seconds within a step after which another line is printed where there is no terminal."""


class Steps:
    """Counts the named steps of a long job and shows the one that runs.

    Args:
        total: how many steps there will be.
        console: where to show them.
    """

    def __init__(self, total: int, console: Console) -> None:
        self._total, self._done = total, 0
        self._progress = Progress(
            TextColumn("[bold]{task.fields[count]}[/] {task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            _TimeLeft(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._lines = None if console.is_terminal else console
        self._task = self._progress.add_task("", total=float(total), count="", detail="", left=None)

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    @contextmanager
    def step(self, name: str) -> Iterator[Report]:
        """Run one step; gives a function that reports progress within it."""
        count = f"step {self._done + 1} of {self._total}"
        self._progress.update(self._task, description=escape(name), count=count, detail="", left=None)
        self._say(f"{count}: {name}")
        said = monotonic()
        # When the first of so many parts was, and which: some are done already.
        began: dict[int, tuple[float, int]] = {}

        def report(what: str, done: int, total: int) -> None:
            nonlocal said
            if done == 0:  # other parts, maybe as many as those before: layers of another variant
                began.pop(total, None)
            start, first = began.setdefault(total, (monotonic(), done))
            left = (monotonic() - start) * (total - done) / (done - first) if done > first else None
            completed = max(self._done + done / total, self._progress.tasks[0].completed)  # a step has several parts
            detail = f"{what} {done + 1}/{total}" if total > 1 else what
            self._progress.update(self._task, completed=completed, detail=escape(detail), left=left)
            if monotonic() > said + _SILENCE:
                self._say(f"{count}: {name}: {detail}" + (f", about {_duration(left)} left" if left else ""))
                said = monotonic()

        yield report
        self._done += 1
        self._progress.update(self._task, completed=self._done)

    def _say(self, line: str) -> None:
        if self._lines:
            self._lines.print(line, markup=False, highlight=False, soft_wrap=True)


class _TimeLeft(ProgressColumn):
    """Time left in a step whose parts are alike, by the parts done; else in all, if the steps to come take as long.

    rich's own estimate looks back only seconds.
    """

    def render(self, task: Task) -> Text:
        left = task.fields["left"]
        where = " in this step" if left is not None else ""
        if left is None:
            if not task.completed or not task.elapsed or not task.total:
                return Text("")
            left = task.elapsed * (task.total / task.completed - 1)
        return Text(f"about {_duration(left)} left{where}", style="cyan")


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
