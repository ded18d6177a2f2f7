"""The content of the cache: what it holds of each kind, and how to remove entries that nobody uses."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pythia_quant.core.errors import storing
from pythia_quant.core.files import CacheKind, cache_folder

KINDS: dict[CacheKind, str] = {
    "references": "logits of sources in fp32, which bench compares with",
    "artifacts": "artifacts that were pulled from a hub",
    "foreign": "artifacts of others that were pulled from a hub",
    "measurements": "drift and LAMBADA of sources",
    "tokens": "tokens of long texts",
    "texts": "the built-in text",
    "hashes": "hashes of large files",
    "web": "packages of npm for sites",
}
"""The kinds of entries, and what they are for. All of them can be made or fetched again."""

_DAY = 86_400
"""A folder that was used within a day may be read by a benchmark or a model that still runs: they hold no lock."""
_PULLED = ("artifacts", "foreign")
_FOLDERS = ("references", *_PULLED)


@dataclass(frozen=True)
class Entry:
    """One entry of the cache.

    Attributes:
        kind: one of :data:`KINDS`.
        path: a file or a folder.
        bytes: the size of its files.
        used: the time of its last use, or, of a pulled artifact, of its download; seconds since the epoch.
    """

    kind: CacheKind
    path: Path
    bytes: int
    used: float


def entries(kind: CacheKind) -> list[Entry]:
    """Return the entries of one kind, those first that were used the longest ago.

    Raises:
        StorageError: there is no place for a cache.
    """
    result = []
    for path in cache_folder(kind).glob("*/*" if kind in _PULLED else "*"):
        if path.suffix == ".lock" or path.name.startswith("."):
            continue
        with suppress(FileNotFoundError):  # another process removes entries, too
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            size = sum(file.stat().st_size for file in files)
            result.append(Entry(kind, path, size, path.stat().st_mtime))
    return sorted(result, key=lambda entry: entry.used)


@dataclass(frozen=True)
class Cleaning:
    """The entries that were removed, and those that were old enough but stay because they may be in use."""

    removed: list[Entry]
    in_use: list[Entry]


def clean(older_than_days: float = 0) -> Cleaning:
    """Remove the entries that were not used for some days and that nobody uses.

    Raises:
        StorageError: an entry cannot be removed.
    """
    now, cleaning = time.time(), Cleaning([], [])
    for entry in (entry for kind in KINDS for entry in entries(kind)):
        if now - entry.used < older_than_days * _DAY:
            continue
        with storing(entry.path):
            removed = _remove_folder(entry, now) if entry.kind in _FOLDERS else _remove_file(entry, now)
        (cleaning.removed if removed else cleaning.in_use).append(entry)
    return cleaning


def _remove_file(entry: Entry, now: float) -> bool:
    """Remove a file that processes read at once and whole; one that is just being written stays."""
    if entry.path.name.startswith("partial-") and now - entry.used < _DAY:
        return False
    entry.path.unlink(missing_ok=True)
    return True


def _remove_folder(entry: Entry, now: float) -> bool:
    """Remove a folder; one that is locked, or was used within a day, stays."""
    path = entry.path
    if now - entry.used < _DAY:
        return False
    name = path.name.removesuffix(".work").removesuffix(".old")
    lock = path.with_name(f"{name}.lock" if entry.kind == "references" else f".{name}.lock")
    try:
        with FileLock(lock, blocking=False):
            # Under another name first: an interruption must not leave half of it under its own.
            hidden = path.with_name(f".{name}.partial-removed")
            shutil.rmtree(hidden, ignore_errors=True)
            if path.exists():
                shutil.rmtree(path.rename(hidden))
            lock.unlink(missing_ok=True)  # a process that waits for the lock notices, and makes a new file
    except Timeout:
        return False
    return True
