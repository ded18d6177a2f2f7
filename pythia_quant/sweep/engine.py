"""Engines do tasks: here in a pool of processes. Each engine yields what a task came to as soon as it is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol

from pythia_quant.core import process
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.machine import cores, memory_available
from pythia_quant.core.progress import Progress
from pythia_quant.sweep.work import Task, run_task

Outcome = dict[str, str] | PythiaQuantError
"""What each job of a task came to, by its row; or the error that ended the task's process."""
Function = Callable[..., dict[str, str]]


class Engine(Protocol):
    """Does tasks, wherever that is."""

    def describe(self) -> str:
        """Return in a few words where tasks are done."""

    def at_a_time(self, needs: Sequence[int]) -> int:
        """Return how many tasks are done at a time, by the bytes of memory that each needs."""

    def run(self, tasks: Sequence[Task], needs: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
        """Do tasks, and yield the index of each with what it came to, in the order in which they end.

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
        pool = ThreadPoolExecutor(count)
        try:
            # No more tasks are waiting than there are processes: a study of thousands costs no memory here.
            waiting: dict[Future[Outcome], int] = {}
            upcoming = iter(enumerate(tasks))
            while True:
                while len(waiting) < count and (following := next(upcoming, None)):
                    index, task = following
                    waiting[pool.submit(self._do, index, task, opened)] = index
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        finally:
            self._ending.set()
            for worker in opened:  # ends what a task of an interrupted study is doing
                worker.__exit__()
            pool.shutdown(cancel_futures=True)

    def _do(self, index: int, task: Task, opened: list[process.Worker]) -> Outcome:
        worker = getattr(self._here, "worker", None)
        if worker is None:
            self._here.worker = worker = process.Worker(self._threads).__enter__()
            opened.append(worker)
        data = {"task": task.model_dump(mode="json")}
        for last in (False, True):
            try:
                outcome: dict[str, str] = worker.call(self._function, data, _Watched(index, self))
            except PythiaQuantError as error:
                if last or self._ending.is_set():
                    return error
            else:
                return outcome
        raise AssertionError


class _Watched(Progress):
    def __init__(self, index: int, engine: LocalEngine) -> None:
        self._index, self._engine = index, engine

    def step(self, what: str, done: int, total: int) -> None:
        self._engine.watch(self._index, f"{what} {done + 1}/{total}" if total > 1 else what)


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
