"""Tasks for Ray workers, which import this module: it imports little, so that they start at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pythia_quant.core.errors import ArtifactError


def look(task: dict[str, Any]) -> dict[str, str]:
    """Return what the worker is like."""
    return {
        "model": task["model"], "store": task["store"], "path": ":".join(sys.path),
        "threads": " ".join(os.environ[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")),
    }  # fmt: skip


def die_once(task: dict[str, Any]) -> dict[str, str]:
    """Kill the worker the first time."""
    mark = Path(task["store"]) / "died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"row": "done"}


def do_or_die(task: dict[str, Any]) -> dict[str, str]:
    """Do what the task's model is called: die, refuse, fail, or be done."""
    match Path(task["model"]).name:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "refuse":
            raise ArtifactError("is broken", where="here", hint="mend it")
        case "fail":
            raise RuntimeError("by accident")
    return {"row": "done"}


def linger(task: dict[str, Any]) -> dict[str, str]:
    """Take a minute, unless the model is called quick; leave a file while at it."""
    if Path(task["model"]).name != "quick":
        mark = Path(task["store"]) / f"{os.getpid()}"
        mark.touch()
        try:
            for _ in range(600):
                time.sleep(0.1)
        finally:
            mark.unlink()
    return {"row": "done"}
