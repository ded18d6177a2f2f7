"""Call one of our functions in a fresh process: nothing it loads or leaves touches the caller or the next call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pythia_quant import errors
from pythia_quant.callbacks import Report, silent
from pythia_quant.formats import load

_PROGRESS = "PYTHIA_QUANT_PROGRESS"
_INTERVAL, _REPORTED = 0.05, 0.5  # seconds


class Worker:
    """A fresh process that runs functions one after the other; what they import, they share.

    Args:
        threads: how many threads numeric libraries may use there; as many as they like unless given.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads, self._calls = threads, 0
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        self._scratch = tempfile.TemporaryDirectory(prefix="pythia-quant-")
        self._folder = Path(self._scratch.name)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._child:
            self._child.kill()
            self._child.wait()
        self._scratch.cleanup()

    def call(self, function: str, arguments: dict[str, Any], report: Report = silent) -> Any:
        """Run ``module:function`` there and return what it returns; a process that has died is replaced.

        Args:
            function: a function whose keyword arguments and result are JSON data; large arrays travel as files.
            arguments: its keyword arguments.
            report: told, twice a second, what the function last gave to :func:`report_progress`.

        Raises:
            PythiaQuantError: what the function raised, or that its process died and how.
        """
        child = self._started()
        self._calls += 1
        answer = self._folder / f"answer-{self._calls}.json"
        assert child.stdin is not None  # noqa: S101 - it is a pipe
        request = json.dumps({"function": function, "arguments": arguments, "answer": str(answer)})
        child.stdin.write(f"{request}\n".encode())
        child.stdin.flush()
        self._wait(child, answer, report)
        if not answer.exists():
            raise errors.BenchmarkError(f"{function} {_cause(child.returncode, self._folder / 'messages')}")
        reply = json.loads(answer.read_bytes())
        if "result" in reply:
            return reply["result"]
        kind = getattr(errors, reply["error"])
        raise kind(reply["what"], where=reply["where"], hint=reply["hint"])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            environment = os.environ | {_PROGRESS: str(self._folder / "progress.json")}
            if self._threads is not None:
                environment |= {"OMP_NUM_THREADS": str(self._threads), "MKL_NUM_THREADS": str(self._threads)}
            with (self._folder / "messages").open("wb") as log:
                # -P: modules of the current folder, which may be a downloaded one, are not imported.
                command = [sys.executable, "-P", "-m", "pythia_quant.isolate"]
                self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
        return self._child

    def _wait(self, child: subprocess.Popen[bytes], answer: Path, report: Report) -> None:
        progress = self._folder / "progress.json"
        progress.unlink(missing_ok=True)
        before, due = None, time.monotonic() + _REPORTED
        while not answer.exists() and child.poll() is None:
            time.sleep(_INTERVAL)
            if time.monotonic() >= due and progress.exists():
                now, due = progress.read_text(), time.monotonic() + _REPORTED
                if now != before:
                    report(*json.loads(now))
                before = now


def call(function: str, arguments: dict[str, Any], threads: int | None = None) -> Any:
    """Run ``module:function`` of this package in a fresh process of its own; see :meth:`Worker.call`."""
    with Worker(threads) as worker:
        return worker.call(function, arguments)


def report_progress(what: str, done: int, total: int) -> None:
    """Tell the process that called this one, if any, how far it is; see :data:`~pythia_quant.callbacks.Report`."""
    if name := os.environ.get(_PROGRESS):
        partial = Path(f"{name}.partial")
        partial.write_text(json.dumps([what, done, total]))
        partial.rename(name)


def _watch(child: subprocess.Popen[bytes], progress: Path, report: Report) -> None:
    before = None
    while True:
        try:
            child.wait(_INTERVAL)
            return
        except subprocess.TimeoutExpired:
            now = progress.read_text() if progress.exists() else None
            if now != before and now is not None:
                report(*json.loads(now))
            before = now


def _cause(status: int, messages: Path) -> str:
    if status == -9:
        return "was killed, most likely because the machine ran out of memory"
    last = messages.read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
    return f"failed with exit code {status}: {last[0]}"


def _serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        reply: dict[str, Any]
        try:
            reply = {"result": load(request["function"])(**request["arguments"])}
        except errors.PythiaQuantError as error:
            reply = {"error": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}
        answer = Path(request["answer"])
        written = answer.with_suffix(".partial")
        written.write_text(json.dumps(reply))
        written.rename(answer)


if __name__ == "__main__":
    _serve()
