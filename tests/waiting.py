"""Waiting for what another process does."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something is true, and fail when it takes too long."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def names_below(folder: Path) -> set[str]:
    """Return the names of files and folders that another process may add and remove meanwhile: rglob() raises then."""
    return {name for _, folders, files in os.walk(folder) for name in (*folders, *files)}
