"""Run a command to its end; return how long it took, and how much memory it and its children held together."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_INTERVAL = 0.1


class FailedError(Exception):
    """A command failed; the message is the last line it printed."""


@dataclass(frozen=True)
class Watched:
    """Seconds on the wall, bytes at the peak, and what was printed."""

    seconds: float
    peak_bytes: int
    output: str


def run(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None, *, look: bool = True
) -> Watched:
    """Run a command.

    Args:
        command: its words.
        log: file that its messages are appended to.
        environment: variables to set besides this process's own.
        look: read its memory ten times a second. This slows the command a little: not for measurements of speed.

    Raises:
        FailedError: it did not end with 0.
    """
    peak = 0
    with log.open("ab") as messages:
        before = messages.tell()
        started = time.perf_counter()
        child = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=messages,
            stdin=subprocess.DEVNULL,
            env=os.environ | dict(environment or {}),
        )
        process = psutil.Process(child.pid)
        # The command prints one line of JSON or a few of text on stdout, which fits the pipe.
        while look and child.poll() is None:
            peak = max(peak, _held(process))
            time.sleep(_INTERVAL)
        child.wait()
        seconds = time.perf_counter() - started
    assert child.stdout is not None
    output = child.stdout.read().decode(errors="replace")
    if child.returncode:
        raise FailedError(_reason(child.returncode, log, before))
    return Watched(seconds, peak, output)


def _held(process: psutil.Process) -> int:
    """Return what a process and its children hold; memory that several of them map is counted once (PSS)."""
    held = 0
    with suppress(psutil.Error):
        for each in (process, *process.children(recursive=True)):
            with suppress(OSError, psutil.Error):
                rollup = Path(f"/proc/{each.pid}/smaps_rollup").read_text()
                held += next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return held


def _reason(status: int, log: Path, start: int) -> str:
    if status == -9:
        return "was killed, most likely because the machine ran out of memory"
    with log.open("rb") as messages:
        messages.seek(start)
        lines = messages.read().decode(errors="replace").strip().splitlines()
    return f"failed with {status}: {lines[-1][:200] if lines else 'no message'} (see {log})"
