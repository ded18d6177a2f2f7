"""The SHA-256 of files: of their content, or as it was when they were last read and have not changed since."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from pythia_quant.core.files import Cache

_LEAST_BYTES = 1_000_000
"""Smaller files are read each time: that takes no longer than to look them up."""
_SETTLED_NS = 2_000_000_000
"""A file that was changed so recently may change again without another time: some disks count in steps of 2 s."""
_CACHE = Cache("hashes", 1_000_000)


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's content, which is read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_if_changed(path: Path) -> str:
    """Return the hex SHA-256 of a file, which is read only if it changed since this function last read it.

    A file is the same one by device and inode, whatever its name, and unchanged by its size and by the times at which
    its content and its status last changed: the latter cannot be set back. That is enough to save work, but does not
    find damage by a disk: what verifies files calls :func:`sha256`.
    """
    status = path.stat()
    if status.st_size < _LEAST_BYTES:
        return sha256(path)
    key = hashlib.sha256(f"{status.st_dev} {status.st_ino}".encode()).hexdigest()[:32]
    state = _state(status)
    if entry := _CACHE.read(key):
        recorded = json.loads(entry)
        if recorded["state"] == state:
            return str(recorded["sha256"])
    started = time.time_ns()
    digest = sha256(path)
    settled = started - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS
    if settled and _state(path.stat()) == state:
        _CACHE.write(key, json.dumps({"state": state, "sha256": digest}).encode())
    return digest


def _state(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
