"""One protocol by which long work reports how far it is, and how the command line shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from pythia_quant.core.text import printable


class Progress:
    """Is told how far long work is, and what the user should know; this one shows nothing of it."""

    def step(self, what: str, done: int, total: int) -> None:
        """Take what is being done, and how many steps of how many are done."""

    def notice(self, text: str) -> None:
        """Take a sentence for the user."""


SILENT = Progress()


class PartOf(Progress):
    """Names the work that each step is part of.

    Args:
        work: its name.
        progress: is told.
    """

    def __init__(self, work: str, progress: Progress) -> None:
        self._work, self._progress = work, progress

    def step(self, what: str, done: int, total: int) -> None:
        """Pass a step on."""
        self._progress.step(f"{self._work}: {what}", done, total)

    def notice(self, text: str) -> None:
        """Pass a sentence on."""
        self._progress.notice(text)


class Notices(Progress):
    """Prints sentences, and shows no steps."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def notice(self, text: str) -> None:
        """Print a sentence, which may quote a file: no sign in it is an order to the terminal."""
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


_SILENCE = 60
"""Seconds within a step after which another line is printed where there is no terminal."""


class Steps:
    """Counts the named steps of a long job and shows the one that runs.

    Args:
        total: how many steps there will be.
        console: where to show them.
    """

    def __init__(self, total: int, console: Console) -> None:
        self._total, self._done, self._console = total, 0, console
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("[bold]{task.fields[count]}[/] {task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TextColumn("{task.fields[detail]}"),
            rich.progress.TimeElapsedColumn(),
            _TimeLeft(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=float(total), count="", detail="", left=None)

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._progress.disable:  # before rich 14.3, stop() prints an empty line even where nothing was shown
            self._progress.stop()

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:
        """Run one step; gives what is told of the progress within it."""
        count = f"step {self._done + 1} of {self._total}"
        self._progress.update(self._task, description=escape(name), count=count, detail="", left=None)
        self._say(f"{count}: {name}")
        yield _Step(self, f"{count}: {name}")
        self._done += 1
        self._progress.update(self._task, completed=self._done)

    def _show(self, share: float, detail: str, left: float | None) -> None:
        """Show how much of the step is done, of 1, and the seconds left in it."""
        completed = max(self._done + share, self._progress.tasks[0].completed)  # a step has several parts
        self._progress.update(self._task, completed=completed, detail=escape(detail), left=left)

    def _say(self, line: str) -> None:
        """Print a line where there is no terminal."""
        if not self._console.is_terminal:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Step(Notices):
    """The progress within one step of :class:`Steps`; `title` begins the lines where there is no terminal."""

    def __init__(self, steps: Steps, title: str) -> None:
        super().__init__(steps._console)
        self._steps, self._title = steps, title
        self._said = monotonic()
        # When the first of so many parts was, and which: some are done already.
        self._began: dict[int, tuple[float, int]] = {}

    def step(self, what: str, done: int, total: int) -> None:
        if done == 0:  # other parts, maybe as many as those before: layers of another variant
            self._began.pop(total, None)
        start, first = self._began.setdefault(total, (monotonic(), done))
        left = (monotonic() - start) * (total - done) / (done - first) if done > first else None
        detail = f"{what} {done + 1}/{total}" if total > 1 else what
        self._steps._show(done / total, detail, left)
        if monotonic() > self._said + _SILENCE:
            self._steps._say(f"{self._title}: {detail}" + (f", about {_duration(left)} left" if left else ""))
            self._said = monotonic()


class _TimeLeft(rich.progress.ProgressColumn):
    """Time left in a step whose parts are alike, by the parts done; else in all, if the steps to come take as long.

    rich's own estimate looks back only seconds.
    """

    def render(self, task: rich.progress.Task) -> Text:
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
