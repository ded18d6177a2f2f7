"""A process that has imported everything and forks: each child is the program, run once, with a fault in it.

A new process takes seconds to import torch, a forked one none. What the program runs in worker processes runs in the
child, so that the count of file events is that of one process.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTHING, SIGNAL_BEFORE, SIGNAL_AFTER, FULL_FROM, FAIL_ONCE, VANISH = range(6)
"""What happens at an event, as in shim.c."""
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Fault:
    """What happens at one file event of the program.

    Attributes:
        event: the number of the event, from 0; -1 for none.
        action: one of the constants above.
        number: the signal's or the error's.
        largest_file: the limit of the size of files, bytes; 0 for none.
        moment: send the signal `number` after so many seconds; 0 for never.
    """

    event: int = -1
    action: int = NOTHING
    number: int = 0
    largest_file: int = 0
    moment: float = 0.0


@dataclass(frozen=True)
class Ending:
    """How a run of the program ended.

    Attributes:
        code: its exit code; minus the number of the signal that ended it.
        events: the file events that it came to.
        said: what it printed on both streams.
        calls: what its workers did: function and row, a line each.
    """

    code: int
    events: int
    said: str
    calls: list[str]


def compile_shim(folder: Path) -> Path | None:
    """Compile the shim; return None where there is no compiler or no glibc."""
    path = folder / "shim.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(path), str(HERE / "shim.c"), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return path


class Nursery:
    """Starts the process that forks, and asks it for children.

    Args:
        folder: where the compiled shim and what children print are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.shim = compile_shim(folder)
        environment = dict(os.environ) | {
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parents[1])]),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if self.shim:
            environment["LD_PRELOAD"] = str(self.shim)
        command = [sys.executable, "-m", "faults.nursery"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def run(self, arguments: list[str], root: Path, environment: Mapping[str, str], fault: Fault = Fault()) -> Ending:
        """Run the program once.

        Args:
            arguments: those after the program's name.
            root: the folder whose files' events count; also the current folder.
            environment: all variables.
            fault: what happens to it.
        """
        said, calls = self._folder / "said", self._folder / "calls"
        request = {
            "arguments": arguments, "root": str(root), "environment": dict(environment), "said": str(said),
            "calls": str(calls), **vars(fault),
        }  # fmt: skip
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer = json.loads(stdout.readline())
        lines = calls.read_text().splitlines() if calls.exists() else []
        return Ending(answer["code"], answer["events"], said.read_text(errors="replace"), lines)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def _serve() -> None:
    """Answer requests: fork, wait, and say how the child ended."""
    shim = ctypes.CDLL(os.environ.pop("LD_PRELOAD")) if "LD_PRELOAD" in os.environ else None
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    learned = Path(tempfile.mkstemp(prefix="modules-")[1])
    atexit.register(learned.unlink)
    for name in ("torch", "program", "workers", "pythia_quant.cli.main"):
        importlib.import_module(name)
    torch = sys.modules["torch"]
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line) | {"learned": str(learned)}
        for name in ("said", "calls"):
            Path(request[name]).write_text("")
        child = os.fork()
        if not child:
            _be(request, shim)
        status = _wait(child, request["moment"], request["number"])
        events = shim.faults_count() if shim else 0
        _import(learned)
        answers.write(json.dumps({"code": os.waitstatus_to_exitcode(status), "events": events}) + "\n")
        answers.flush()


def _wait(child: int, moment: float, number: int) -> int:
    """Return a child's status when it has ended, of itself or by the signal `number` that it is sent after a moment."""
    end = time.monotonic() + moment
    while moment and time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.002)
    if moment:
        os.kill(child, number)
    return os.waitpid(child, 0)[1]


def _import(learned: Path) -> None:
    """Import what a child has imported, so that the next one has it. None of it starts a thread."""
    for name in learned.read_text().split():
        with suppress(Exception):
            importlib.import_module(name)
    learned.write_text("")


def _be(request: dict[str, Any], shim: ctypes.CDLL | None) -> None:
    """Become the program; never return."""
    code, known = 70, set(sys.modules)
    try:
        said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["root"])
        os.environ.clear()
        os.environ.update(request["environment"])
        tempfile.tempdir = None
        if request["largest_file"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], resource.RLIM_INFINITY))
        code = _run(request, shim)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        if shim:
            shim.faults_disarm()
        Path(request["learned"]).write_text("\n".join(name for name in sys.modules if name not in known))
        try:
            sys.stdout.flush()
        except OSError:
            code = code or 74
        os._exit(code)


def _run(request: dict[str, Any], shim: ctypes.CDLL | None) -> int:
    import program
    import workers

    from pythia_quant.cli.main import main
    from pythia_quant.core import process

    class Noting(workers.WorkerHere):
        """Notes each call that has ended, in a file whose events do not count."""

        def call(self, function: Any, arguments: dict[str, Any], *rest: Any) -> Any:
            result = super().call(function, arguments, *rest)
            subject = arguments.get("subject") or {}
            with open(request["calls"], "a") as file:  # noqa: PTH123
                file.write(f"{process.name_of(function)} {subject.get('name', '')}\n")
            return result

    workers.WorkerHere = Noting  # type: ignore[misc]
    program._read_hub_variables()
    sys.argv = ["pythia-quant", *request["arguments"]]
    with workers.in_process():
        if shim:
            shim.faults_arm(
                request["root"].encode(), ctypes.c_long(request["event"]), request["action"], request["number"]
            )
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    _serve()
