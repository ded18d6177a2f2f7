"""One protocol by which long work reports how far it is, and how the command line shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.table import Column
from rich.text import Text

from pythia_quant.core.console import PrintableConsole
from pythia_quant.core.text import printable
from pythia_quant.core.time_left import ExpectedStep, TimeLeft


class Progress:
    """Is told how far long work is, and what the user should know; this one shows nothing of it."""

    def step(self, what: str, done: int, total: int) -> None:
        """Take what is being done, and how many steps of how many are done."""

    def part(self, name: str, outcome: str) -> None:
        """Take the name of a part of the work that has ended, and what it came to."""

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

    def part(self, name: str, outcome: str) -> None:
        """Pass a part on."""
        self._progress.part(name, outcome)

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


_SILENCE, _SILENCE_VERBOSE = 60.0, 10.0
"""Seconds within a step after which another line is printed: where there is no terminal, and where all is told."""
_BAR_FROM = 90
"""The columns of a terminal that has room for a bar."""


class Steps:
    """Counts the named steps of a long job and shows the one that runs.

    On a terminal this is one line with fixed columns; elsewhere a line is printed for every step that has ended. A
    console that is verbose is told of the parts of steps, too.

    Args:
        total: how many steps there will be.
        console: where to show them.
        later: how many jobs like this one the command does afterwards, which the time left counts, too.
    """

    def __init__(self, total: int, console: Console, later: int = 0) -> None:
        self._total, self._done, self._console = total, 0, console
        self._verbose = isinstance(console, PrintableConsole) and console.verbose
        self._time_left, self._later, self._start = TimeLeft(), later, monotonic()
        self._running: Step | None = None
        self._progress = rich.progress.Progress(
            *_columns(console.width, total, self._left), console=console, transient=True, expand=True,
            disable=not console.is_terminal or console.quiet,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=float(total), detail="")

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._progress.disable:  # before rich 14.3, stop() prints an empty line even where nothing was shown
            self._progress.stop()

    def expect(self, steps: Sequence[ExpectedStep]) -> None:
        """Take the steps that are still to come with what they may take, so that the time left can be estimated."""
        self._time_left.expect(steps)
        self._total = self._done + len(steps)
        self._progress.update(self._task, total=float(self._total))

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Run one step; gives what is told of the progress within it."""
        expected = self._time_left.begin(name) or (ExpectedStep(name, 0.0, "") if self._total == 1 else None)
        self._running = step = Step(self, name, expected)
        self._progress.update(self._task, description=escape(name), detail="")
        self._update(step)
        yield step
        self._running = None
        self._done += 1
        self._progress.update(self._task, completed=self._done)
        if expected is not None:
            self._time_left.end(expected, step.elapsed)
        if self._verbose or not self._console.is_terminal:
            self._say(f"{step.conclusion}{self._words_left()}", count=self._done)

    def _update(self, step: Step) -> None:
        """Show how far a step is."""
        completed = max(self._done + step.share, self._progress.tasks[0].completed)  # a step has several parts
        self._progress.update(self._task, completed=completed, detail=f": {escape(step.detail)}" if step.detail else "")

    def _tell(self, step: Step) -> None:
        """Print how far a step is, where that is not shown."""
        if self._verbose or not self._console.is_terminal:
            self._say(f"{step.name}: {step.detail}{self._words_left()}", count=self._done + 1)

    def _left(self) -> float | None:
        """Return the seconds that are left for the whole command; None while that would be a guess."""
        step = self._running
        left = self._time_left.left(*((step.expected, step.elapsed, step.left_of_parts) if step else (None, 0.0, None)))
        return None if left is None else left + self._later * (monotonic() - self._start + left)

    def _words_left(self) -> str:
        left = self._left()
        return f"; {duration(left)} left" if left else ""

    def _say(self, line: str, *, count: int) -> None:
        digits = len(str(self._total))
        text = f"[{count:{digits}}/{self._total}] {printable(line)}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Step(Notices):
    """The progress within one step of :class:`Steps`."""

    def __init__(self, steps: Steps, name: str, expected: ExpectedStep | None) -> None:
        super().__init__(steps._console)
        self._steps, self.name, self.expected = steps, name, expected
        self.share, self.detail = 0.0, ""
        self.left_of_parts: float | None = None
        self._start = self._said = monotonic()
        self._what, self._ended_as, self._facts = "", name, ""
        # When the first of so many parts was, and which: some are done already.
        self._began: dict[int, tuple[float, int]] = {}

    @property
    def elapsed(self) -> float:
        """The seconds since the step began."""
        return monotonic() - self._start

    @property
    def conclusion(self) -> str:
        """What is said once the step has ended."""
        return f"{self._ended_as}, {duration(self.elapsed)}{self._facts}"

    def conclude(self, what: str, *facts: str) -> None:
        """Take what is said once the step has ended, instead of its name, and what came out."""
        self._ended_as, self._facts = what, "".join(f", {fact}" for fact in facts)

    def step(self, what: str, done: int, total: int) -> None:
        if done == 0:  # other parts, maybe as many as those before: layers of another variant
            self._began.pop(total, None)
        start, first = self._began.setdefault(total, (monotonic(), done))
        self.left_of_parts = (monotonic() - start) * (total - done) / (done - first) if done > first else None
        self.share, self.detail = done / total, f"{what} {done + 1}/{total}" if total > 1 else what
        self._steps._update(self)
        new = self._steps._verbose and what != self._what
        if new or monotonic() > self._said + (_SILENCE_VERBOSE if self._steps._verbose else _SILENCE):
            self._steps._tell(self)
            self._said = monotonic()
        self._what = what


def _columns(width: int, total: int, left: Callable[[], float | None]) -> list[rich.progress.ProgressColumn]:
    """Return the columns of the line on a terminal: the step, how many are done, the time so far and the time left."""
    what = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    bar = [rich.progress.BarColumn(bar_width=16, table_column=Column(width=16))] if width >= _BAR_FROM else []
    return [
        rich.progress.TextColumn("[bold]{task.description}[/]{task.fields[detail]}", table_column=what),
        *bar,
        rich.progress.MofNCompleteColumn(table_column=Column(width=2 * len(str(total)) + 1, no_wrap=True)),
        rich.progress.TimeElapsedColumn(table_column=Column(width=7, no_wrap=True)),
        _TimeLeftColumn(left),
    ]


class _TimeLeftColumn(rich.progress.ProgressColumn):
    """The time left for the whole command; rich's own looks back only seconds.

    Args:
        left: returns it in seconds, or None while it is not known.
    """

    def __init__(self, left: Callable[[], float | None]) -> None:
        super().__init__(table_column=Column(width=len("59 min left"), no_wrap=True))
        self._left = left

    def render(self, task: rich.progress.Task) -> Text:  # noqa: ARG002
        left = self._left()
        return Text("" if left is None else f"{duration(left)} left", style="cyan")


def duration(seconds: float) -> str:
    """Return a time in one unit: seconds, then minutes, then hours."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
