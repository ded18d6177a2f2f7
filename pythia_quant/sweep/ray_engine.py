"""Do tasks on a Ray cluster. Ray places them, reuses processes, and does again what a lost process was doing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pythia_quant.core.errors import BenchmarkError, PythiaQuantError, StudyError, without_links
from pythia_quant.core.interrupt import interrupted
from pythia_quant.core.machine import cores, thread_limits, tool_version
from pythia_quant.core.process import name_of, result_of
from pythia_quant.model.source_name import parse_model
from pythia_quant.sweep import ray_task
from pythia_quant.sweep.engine import Function, Outcome, places
from pythia_quant.sweep.ray_cluster import CLUSTER, RETRIES, Head, connect, first_line, import_ray, last_line, start
from pythia_quant.sweep.work import Task, run_task

_CHECK_SECONDS, _CANCEL_SECONDS = 120, 5
_MEMORY_STEP = 64 * 2**20
"""Requests for memory are multiples of this: Ray keeps a queue, and workers, for every amount that it was asked for."""


class RayEngine:
    """Does tasks on a Ray cluster, in processes that Ray starts and reuses.

    Args:
        threads: the threads of a task.
        address: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; None for a cluster of this machine, which starts with
            the first task and ends with the last.
        function: does a task; its argument is the task as data.

    Raises:
        StudyError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, threads: int, address: str | None = None, function: Function = run_task) -> None:
        self._threads, self._address, self._function = threads, address, name_of(function)
        self._ray = import_ray()
        if address is not None:
            connect(self._ray, address)

    def describe(self) -> str:
        """Return the size of the cluster."""
        if self._address is None:
            return f"a Ray cluster of this machine, {_counted(cores(), 'core')}"
        nodes = self._nodes()
        total = int(sum(node.get("CPU", 0) for node in nodes.values()))
        return f"the Ray cluster at {self._address}, {_counted(len(nodes), 'node')} with {_counted(total, 'core')}"

    def at_a_time(self, needs: Sequence[int]) -> int:
        """Return about how many tasks are done at a time; see :class:`~pythia_quant.sweep.engine.Engine`."""
        if self._address is None:
            return max(1, min(len(needs), cores() // self._threads))
        rooms = [(int(node["memory"]), int(node["CPU"]) // self._threads) for node in self._fitting().values()]
        return max(1, min(len(needs), sum(places(needs, memory, most) for memory, most in rooms)))

    def run(self, tasks: Sequence[Task], needs: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
        """Do tasks; see :class:`~pythia_quant.sweep.engine.Engine`.

        Raises:
            StudyError: no node of the cluster can do them, or its head is gone.
        """
        waiting: dict[Any, int] = {}
        try:
            if self._address is None:
                start(self._ray, max(cores(), self._threads))
            if tasks:
                self._check_nodes(_folder_of(tasks[0].store))
                yield from self._run(tasks, needs, waiting)
        finally:
            with suppress(Exception):  # a cluster that is gone cannot be told
                for ref in waiting:
                    self._ray.cancel(ref)  # raises KeyboardInterrupt there, so that temporary folders are removed
                if waiting:
                    self._ray.wait(list(waiting), num_returns=len(waiting), timeout=_CANCEL_SECONDS)
            self._ray.shutdown()

    def _run(
        self, tasks: Sequence[Task], needs: Sequence[int], waiting: dict[Any, int]
    ) -> Iterator[tuple[int, Outcome]]:
        remote = self._remote(ray_task.do, max_retries=RETRIES)
        upcoming, looked, head = iter(range(len(tasks))), monotonic(), Head(self._ray, self._address)
        nodes = self._fitting()
        while True:
            if monotonic() - looked > 1 and head.answers():  # nodes come and go
                nodes, looked = self._fitting() or nodes, monotonic()
            most = max(int(node["memory"]) for node in nodes.values())
            room = sum(int(node["CPU"]) // self._threads for node in nodes.values())
            # A few more than there is room for: a study of thousands costs no memory here, and no worker waits.
            for index in islice(upcoming, max(0, 2 * room + 2 - len(waiting))):
                waiting[self._submit(remote, tasks[index], min(needs[index], most))] = index
            if not waiting:
                return
            ended, others = self._ray.wait(list(waiting), num_returns=1, timeout=0.5)
            if ended and others:  # what has ended since: asking once for each would take longer than short tasks
                ended += self._ray.wait(others, num_returns=len(others), timeout=0)[0]
            if interrupted.is_set():  # the exception could get lost within Ray
                raise KeyboardInterrupt
            for ref in ended:
                outcome = self._outcome(ref)
                yield waiting.pop(ref), outcome

    def _submit(self, remote: Any, task: Task, memory: int) -> Any:
        task = _everywhere(task)
        rounded, gpus = memory // _MEMORY_STEP * _MEMORY_STEP, int(task.device == "cuda")
        sized = remote.options(num_cpus=task.threads, num_gpus=gpus, memory=rounded)
        return sized.remote(self._function, task.model_dump(mode="json"), _folder_of(task.store), tool_version())

    def _remote(self, function: Any, **options: Any) -> Any:
        # Numeric libraries count threads when they are imported, so the limit is in the environment of the process.
        return self._ray.remote(runtime_env={"env_vars": thread_limits(self._threads, {})}, **options)(function)

    def _outcome(self, ref: Any) -> Outcome:
        """Return what a task came to.

        Raises:
            StudyError: the node that had it cannot do any.
        """
        try:
            reply = self._ray.get(ref)
            if "fault" in reply:
                raise _unusable(reply["fault"], self._address)
            outcome: dict[str, str] = result_of(reply)
        except PythiaQuantError as error:
            if isinstance(error, StudyError) and error.where == CLUSTER:
                raise
            return error
        except self._ray.exceptions.RuntimeEnvSetupError as error:
            raise _unusable(last_line(error), self._address) from error
        except self._ray.exceptions.RayTaskError as error:
            return BenchmarkError(f"{self._function} failed: {last_line(error)}")
        except self._ray.exceptions.RayError as error:
            return BenchmarkError(f"{self._function} was ended with its process: {first_line(error)}")
        return outcome

    def _nodes(self) -> dict[str, dict[str, float]]:
        """Return the resources of every node that is alive."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}

    def _fitting(self) -> dict[str, dict[str, float]]:
        """Return the nodes that have the processors of a task."""
        return {name: node for name, node in self._nodes().items() if node.get("CPU", 0) >= self._threads}

    def _check_nodes(self, folder: str | None) -> None:
        """Refuse a cluster with a node that could not do its tasks, before the first one.

        Raises:
            StudyError: there is such a node, or there is none that has the processors of a task.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415 - an extra

        nodes = self._fitting()
        if not nodes:
            what = f"no node of the cluster has {_counted(self._threads, 'core')}, which each job of the study takes"
            raise StudyError(what, where=CLUSTER, hint="change threads in the study, or add a node")
        remote, refs = self._remote(ray_task.fault, num_cpus=0), []
        for name in nodes:
            there = remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False))
            refs.append(there.remote(folder, tool_version()))
        ended, slow = self._ray.wait(refs, num_returns=len(refs), timeout=_CHECK_SECONDS)
        if not ended:
            raise _unusable(f"none of its nodes started a process in {_CHECK_SECONDS} s", self._address)
        for ref in slow:
            self._ray.cancel(ref)
        for ref in ended:
            try:
                why = self._ray.get(ref)
            except (self._ray.exceptions.RayTaskError, self._ray.exceptions.RuntimeEnvSetupError) as error:
                why = last_line(error)
            except self._ray.exceptions.RayError:  # a node that was lost meanwhile
                continue
            if why:
                raise _unusable(why, self._address)


def _unusable(why: str, address: str | None) -> StudyError:
    hint = "every node needs the same version of pythia-quant, and a store that all of them reach: --store"
    return StudyError(f"a node of the cluster cannot do the jobs: {why}", where=CLUSTER, hint=hint if address else "")


def _everywhere(task: Task) -> Task:
    """Return a task whose paths mean the same in every folder."""
    update: dict[str, str] = {"recipe_path": _absolute(task.recipe_path)}
    if (folder := _folder_of(task.store)) is not None:
        update["store"] = folder
    with suppress(PythiaQuantError):  # a folder that is gone: the task says so
        if isinstance(parse_model(task.model, task.revision), Path):
            update["model"] = _absolute(task.model)
    update |= {name: _absolute(path) for name in ("work", "keep") if (path := getattr(task, name))}
    return task.model_copy(update=update)


def _folder_of(store: str) -> str | None:
    """Return the absolute path of a store that is a folder, None for another."""
    files, root = url_to_fs(store)
    return _absolute(root) if isinstance(files, LocalFileSystem) else None


def _absolute(path: str) -> str:
    return str(without_links(Path(path)))


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
