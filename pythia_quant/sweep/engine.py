"""Engines do tasks: here in a pool of processes. Each engine yields what jobs came to as soon as it knows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple, Protocol

from pythia_quant.core import process
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.machine import cores, memory_available
from pythia_quant.core.progress import Progress
from pythia_quant.sweep.work import Task, run_task

Outcome = dict[str, str] | PythiaQuantError
"""What jobs of a task came to, by their rows; or the error that ended the process, and with it all that were left."""
Function = Callable[..., dict[str, str]]


class Engine(Protocol):
    """Does tasks, wherever that is."""

    def describe(self) -> str:
        """Return in a few words where tasks are done."""

    def at_a_time(self, needs: Sequence[int]) -> int:
        """Return how many tasks are done at a time, by the bytes of memory that each needs."""

    def run(self, tasks: Sequence[Task], needs: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
        """Do tasks, and yield the index of each with what its jobs came to: each job once, as soon as it is known.

        The jobs of a task may come one by one or together, and tasks come in the order in which they end.

        Args:
            tasks: the tasks.
            needs: the bytes of memory that each needs.
        """


class LocalEngine:
    """Does tasks in processes of this machine, as many as its cores and its memory hold.

    A process that dies, as when memory runs out, is replaced, and its task is done once more; what that task had
    finished is in the store.

    Attributes:
        watch: called now and then with the index of a task and what it is doing.

    Args:
        threads: the threads of a task.
        workers: how many processes; None for as many as there is room for.
        function: does a task, in a process of its own; its argument is the task as data.
    """

    def __init__(self, threads: int, workers: int | None = None, function: Function = run_task) -> None:
        self._threads, self._workers, self._function = threads, workers, function
        self._here, self._ending = threading.local(), threading.Event()
        self.watch: Callable[[int, str], object] = lambda index, doing: None  # noqa: ARG005

    def describe(self) -> str:
        """Return the number of processes."""
        most = self._workers or max(1, cores() // self._threads)
        return f"this machine, {most} process{'' if most == 1 else 'es'} at a time"

    def at_a_time(self, needs: Sequence[int]) -> int:
        """Return the number of processes for these tasks; see :class:`Engine`."""
        return self._workers or places(needs, memory_available(), max(1, cores() // self._threads))

    def run(self, tasks: Sequence[Task], needs: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
        """Do tasks; see :class:`Engine`."""
        count = self.at_a_time(needs)
        opened: list[process.Worker] = []
        reports: SimpleQueue[_Report] = SimpleQueue()
        pool = ThreadPoolExecutor(count)
        try:
            # No more tasks are waiting than there are processes: a study of thousands costs no memory here.
            upcoming, running = iter(enumerate(tasks)), 0
            while True:
                while running < count and (following := next(upcoming, None)):
                    pool.submit(self._do, *following, opened, reports)
                    running += 1
                if not running:
                    return
                report = reports.get()
                running -= report.ended
                if isinstance(report.outcome, BaseException) and not isinstance(report.outcome, PythiaQuantError):
                    raise report.outcome
                if report.outcome:
                    yield report.task, report.outcome
        finally:
            self._ending.set()
            for worker in opened:  # ends what a task of an interrupted study is doing
                worker.__exit__()
            pool.shutdown(cancel_futures=True)

    def _do(self, index: int, task: Task, opened: list[process.Worker], reports: SimpleQueue[_Report]) -> None:
        """Do a task; report its parts, then, whatever happens, its end."""
        parts = _Parts(index, self, reports)
        try:
            outcome: Outcome | BaseException = self._outcome(task, opened, parts)
        except BaseException as error:  # the thread that takes reports raises it
            outcome = error
        if isinstance(outcome, dict):
            outcome = {row: what for row, what in outcome.items() if row not in parts.told}
        reports.put(_Report(index, outcome, ended=True))

    def _outcome(self, task: Task, opened: list[process.Worker], parts: _Parts) -> Outcome:
        worker = getattr(self._here, "worker", None)
        if worker is None:
            self._here.worker = worker = process.Worker(self._threads).__enter__()
            opened.append(worker)
        data = {"task": task.model_dump(mode="json")}
        for last in (False, True):
            try:
                outcome: dict[str, str] = worker.call(self._function, data, parts)
            except PythiaQuantError as error:
                if last or self._ending.is_set():
                    return error
            else:
                return outcome
        raise AssertionError


class _Report(NamedTuple):
    """What jobs of a task came to, or what was raised; and whether that is the end of the task."""

    task: int
    outcome: Outcome | BaseException
    ended: bool


class _Parts(Progress):
    """Reports each job of a task as soon as it ends, once even if the task is done again."""

    def __init__(self, index: int, engine: LocalEngine, reports: SimpleQueue[_Report]) -> None:
        self._index, self._engine, self._reports = index, engine, reports
        self.told: set[str] = set()

    def step(self, what: str, done: int, total: int) -> None:
        self._engine.watch(self._index, f"{what} {done + 1}/{total}" if total > 1 else what)

    def part(self, name: str, outcome: str) -> None:
        if name not in self.told:
            self.told.add(name)
            self._reports.put(_Report(self._index, {name: outcome}, ended=False))


def places(needs: Sequence[int], free: int, most: int) -> int:
    """Return how many tasks run at a time, so that the largest of them fit into memory together.

    Args:
        needs: the bytes that each task needs.
        free: the bytes that are free.
        most: the most tasks at a time.
    """
    largest, total = sorted(needs, reverse=True), 0
    for count, need in enumerate(largest[:most]):
        total += need
        if total > free:
            return max(1, count)
    return max(1, min(most, len(largest)))
