"""Call one of our functions in a fresh process, so that what it imports and allocates does not affect the caller."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pythia_quant.core import errors
from pythia_quant.core.files import replace_file, temporary_folder
from pythia_quant.core.machine import cores, thread_limits
from pythia_quant.core.progress import SILENT, Progress

_PROGRESS, _PARTS = "PYTHIA_QUANT_PROGRESS", "parts.jsonl"
_INTERVAL, _REPORTED = 0.05, 0.5  # seconds


class Worker:
    """A fresh process that runs one function after another. The functions share what they import.

    The process ends when the calling process ends, even if that is killed.

    Args:
        threads: the number of threads that numeric libraries may use; by default, one for each processor.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads, self._calls = threads or cores(), 0
        self._child: subprocess.Popen[bytes] | None = None
        self._resources = ExitStack()

    def __enter__(self) -> Worker:
        self._folder = self._resources.enter_context(temporary_folder())
        return self

    def __exit__(self, *exception: object) -> None:
        with self._resources:
            if self._child:
                self._child.kill()
                self._child.wait()
                if self._child.stdin:
                    self._child.stdin.close()

    def prepare(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        """Start a function there, as :meth:`call` does, and do not wait for it: a later call begins after it.

        If it raises, that process ends, and the next call begins another one or says how it ended.
        """
        self._send(function, arguments, answer=None)

    def call(self, function: Callable[..., Any], arguments: dict[str, Any], progress: Progress = SILENT) -> Any:
        """Run a function in the process and return its result. If the process has died before, start another one.

        Args:
            function: a function at the top level of a module. Its arguments and its result are JSON data; large arrays
                must be in files.
            arguments: the keyword arguments.
            progress: receives, twice a second, the last step that the function has reported to :data:`CALLER`, and
                all parts that have ended since; those of the last half second may be missing.

        Raises:
            BenchmarkError: the process died; the message says how.
            PythiaQuantError: the function raised it.
        """
        self._calls += 1
        answer = self._folder / f"answer-{self._calls}.json"
        for earlier in ("progress.json", _PARTS):
            (self._folder / earlier).unlink(missing_ok=True)
        child = self._send(function, arguments, answer)
        self._wait(child, answer, progress)
        if not answer.exists():
            raise errors.BenchmarkError(f"{name_of(function)} {_cause(child.returncode, self._folder / 'messages')}")
        return result_of(json.loads(answer.read_bytes()))

    def _send(
        self, function: Callable[..., Any], arguments: dict[str, Any], answer: Path | None
    ) -> subprocess.Popen[bytes]:
        child = self._running_child()
        assert child.stdin is not None  # noqa: S101 - it is a pipe
        request = {"function": name_of(function), "arguments": arguments, "answer": answer and str(answer)}
        with suppress(BrokenPipeError):  # it has died already: what it left says how
            child.stdin.write(f"{json.dumps(request)}\n".encode())
            child.stdin.flush()
        return child

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            environment = os.environ | thread_limits(self.threads, {})
            environment[_PROGRESS] = str(self._folder / "progress.json")
            with (self._folder / "messages").open("wb") as log:
                # -P, so that no module of the current folder, which may be a downloaded one, is imported.
                command = [sys.executable, "-P", "-m", "pythia_quant.core.process"]
                self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
        return self._child

    def _wait(self, child: subprocess.Popen[bytes], answer: Path, progress: Progress) -> None:
        path, parts = self._folder / "progress.json", self._folder / _PARTS
        before, told, due = None, 0, time.monotonic() + _REPORTED
        while not answer.exists() and child.poll() is None:
            time.sleep(_INTERVAL)
            if time.monotonic() < due:
                continue
            due = time.monotonic() + _REPORTED
            if parts.exists():
                whole = parts.read_text().rpartition("\n")[0].splitlines()  # the last line may still be written
                for line in whole[told:]:
                    progress.part(*json.loads(line))
                told = len(whole)
            if path.exists():
                now = path.read_text()
                if now != before:
                    progress.step(*json.loads(now))
                before = now


class Here:
    """Runs functions in this process, in the way of a :class:`Worker`.

    Args:
        threads: the number of threads that numeric libraries use.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def prepare(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        """Do nothing: a process that works itself gains nothing by beginning early."""

    def call(self, function: Callable[..., Any], arguments: dict[str, Any], progress: Progress = SILENT) -> Any:  # noqa: ARG002
        """Run a function and return its result, as JSON data."""
        return json.loads(json.dumps(function(**arguments)))


def call(function: Callable[..., Any], arguments: dict[str, Any], threads: int | None = None) -> Any:
    """Run a function of a module in a fresh process of its own; see :meth:`Worker.call`."""
    with Worker(threads) as worker:
        return worker.call(function, arguments)


class _Caller(Progress):
    """Reports steps and parts to the process that has called this one, if there is one. It ignores notices."""

    def step(self, what: str, done: int, total: int) -> None:
        if name := os.environ.get(_PROGRESS):
            replace_file(Path(name), json.dumps([what, done, total]))

    def part(self, name: str, outcome: str) -> None:
        if place := os.environ.get(_PROGRESS):
            # The caller learns the same from the result: that it hears of it early is not worth failing for.
            with suppress(OSError), Path(place).with_name(_PARTS).open("a") as file:
                file.write(f"{json.dumps([name, outcome])}\n")


CALLER = _Caller()
"""The progress of a function that runs in a :class:`Worker`; in other processes, it does nothing."""


def _cause(status: int, messages: Path) -> str:
    if status == -9:
        return "was killed, most likely because the machine ran out of memory"
    last = messages.read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
    return f"failed with exit code {status}: {last[0]}"


def _serve() -> None:
    requests: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=[requests], daemon=True).start()
    while True:
        request = json.loads(requests.get())
        reply = reply_to(request["function"], request["arguments"])
        if request["answer"]:
            replace_file(Path(request["answer"]), json.dumps(reply))


def name_of(function: Callable[..., Any]) -> str:
    """Return the name by which another process finds a function at the top level of a module."""
    return f"{function.__module__}:{function.__qualname__}"


def reply_to(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a function by its name; return what came of it, a result or an error of ours, as JSON data."""
    module, _, name = function.partition(":")
    try:
        return {"result": getattr(import_module(module), name)(**arguments)}
    except errors.PythiaQuantError as error:
        return {"error": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}


def result_of(reply: dict[str, Any]) -> Any:
    """Return the result in a reply of :func:`reply_to`.

    Raises:
        PythiaQuantError: the function raised it.
    """
    if "result" in reply:
        return reply["result"]
    raise getattr(errors, reply["error"])(reply["what"], where=reply["where"], hint=reply["hint"])


def _listen(requests: SimpleQueue[str]) -> None:
    """Pass requests on while the calling process lives. When it has ended, end this one, whatever it is doing."""
    with os.fdopen(os.dup(0)) as lines:  # not sys.stdin, which Python closes when the other thread has failed
        for line in lines:
            requests.put(line)
    os._exit(0)


if __name__ == "__main__":
    _serve()
