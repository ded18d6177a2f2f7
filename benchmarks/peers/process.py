"""What a measured process does, in the interpreter of any peer. It uses the standard library only."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TextIO


def keep_stdout() -> TextIO:
    """Return the real stdout, and send what libraries print to stderr, so that stdout holds answers only."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def memory() -> dict[str, int]:
    """Return this process's memory as Linux counts it, in bytes.

    It does not use getrusage, whose maximum begins with that of the process that started this one.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS", "RssAnon", "RssFile")}


def forget_peak() -> None:
    """Set VmHWM back to what is held now, because importing a library may have taken more for a moment."""
    with suppress(OSError):  # not every container allows it; the peak then includes the import's
        Path("/proc/self/clear_refs").write_text("5")
