"""The SHA-256 of files, read from a cache if the file has not changed since it was last hashed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from pythia_quant.core.files import Cache

_LEAST_BYTES = 1_000_000
"""The size of the smallest file whose hash is cached: to read a smaller one takes no longer than the cache."""
_SETTLED_NS = 2_000_000_000
"""The hash of a file that was changed so recently is not cached: some file systems record times in steps of 2 s, so
that the file may change again and keep its time."""
_CACHE = Cache("hashes", 1_000_000)


def sha256(path: Path) -> str:
    """Read a file and return its hex SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_if_changed(path: Path) -> str:
    """Return the hex SHA-256 of a file; it is read only if it has changed since this function last read it.

    A file is known by its device and inode, whatever its name. It has not changed if its size, the time of its content
    and the time of its status are the same; programs cannot set the latter. This saves work, but does not detect damage
    on a disk: code that verifies files calls :func:`sha256`.
    """
    return known_sha256(path) or sha256_anew(path)


def sha256_anew(path: Path) -> str:
    """Read a file and return its hex SHA-256, which is cached."""
    status, started = path.stat(), time.time_ns()
    digest = sha256(path)
    settled = started - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS
    if status.st_size >= _LEAST_BYTES and settled and _state(path.stat()) == _state(status):
        _CACHE.write(_key(status), json.dumps({"state": _state(status), "sha256": digest}).encode())
    return digest


def known_sha256(path: Path) -> str | None:
    """Return the hex SHA-256 of a file without reading a large one; None if it has changed since it was hashed."""
    status = path.stat()
    if status.st_size < _LEAST_BYTES:
        return sha256(path)
    recorded = json.loads(_CACHE.read(_key(status)) or b"{}")
    return str(recorded["sha256"]) if recorded.get("state") == _state(status) else None


def _key(status: os.stat_result) -> str:
    return hashlib.sha256(f"{status.st_dev} {status.st_ino}".encode()).hexdigest()[:32]


def _state(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
