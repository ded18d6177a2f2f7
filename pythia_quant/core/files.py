"""Files and folders of our own: complete or absent, made by one process at a time, and the cache."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal

from filelock import FileLock, Timeout

from pythia_quant.core.errors import ArtifactError, BenchmarkError, StorageError, storing

_TEMPORARY = "pythia-quant-"

_UNLOCKED_SECONDS = 3600
"""A younger temporary folder without a lock may belong to a process that is about to make the lock."""


@contextmanager
def target_lock(target: Path, part: str = "", *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of `target`, so that nobody else makes it meanwhile, not even this process a second time.

    Args:
        target: the file or folder to make; its parent folder is made when it is missing.
        part: the name of one part of the work, when that part has a lock of its own.
        wait: whether to wait for a process that holds the lock, rather than to raise.

    Raises:
        ArtifactError: another process holds the lock.
        StorageError: nothing can be written there.
    """
    path = _hidden(target, f"{part}lock")
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(blocking=wait)
        except Timeout as error:
            if not path.exists():  # filelock times out, too, where no file can be made, as in /proc
                raise StorageError("cannot be written", where=str(target), hint="choose another folder") from error
            raise ArtifactError(
                "another process is at work on it", where=str(target), hint="wait for it to end"
            ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # a process that waits for the lock notices, and makes a new file
        lock.release()


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target` and rename it to `target` at the end; remove it after an error.

    A process that is killed leaves at most hidden files and folders beside the target. The next run for the same
    target removes them; an earlier target stays, or the next run puts it back.

    Raises:
        ArtifactError: another process is at work on the same target.
        StorageError: the folder cannot be written.
    """
    with target_lock(target), fresh_folder(target) as folder:
        yield folder


@contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """Do what :func:`scratch_folder` does; the caller holds the target's lock."""
    with storing(target):
        _clear(target)
        scratch, previous = _hidden(target, f"partial-{secrets.token_hex(4)}"), _hidden(target, "previous")
        scratch.mkdir()
        try:
            yield scratch
            if target.exists():
                target.rename(previous)
            scratch.rename(target)
        finally:
            _remove(scratch)
        _remove(previous)


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target` to make files in, which the caller renames; the caller holds its lock.

    Raises:
        StorageError: the folder cannot be written.
    """
    with storing(target):
        _clear(target)
        folder = _hidden(target, f"partial-{secrets.token_hex(4)}")
        folder.mkdir()
        try:
            yield folder
        finally:
            _remove(folder)


@contextmanager
def work_folder(
    target: Path, fingerprint: str, resume_after: tuple[type[Exception], ...] = (BenchmarkError,)
) -> Iterator[Path]:
    """Give a folder beside `target` that a killed process leaves to the next process with the same fingerprint.

    Work folders of other fingerprints are removed first, this one at the end. Only this process uses it meanwhile.

    Args:
        target: the file or folder to make.
        fingerprint: a hash of everything that the work depends on.
        resume_after: errors that leave the finished part of the work valid, so that the folder stays; by default the
            death of a process. After any other error it is removed, but not after an interruption.

    Raises:
        ArtifactError: another process is at work on the same target.
        StorageError: the folder cannot be written.
    """
    folder = _hidden(target, f"work-{fingerprint}")
    with target_lock(target, "work."):
        for other in _beside(target, "work-"):
            if other != folder:
                _remove(other)
        try:
            with storing(target):
                folder.mkdir(exist_ok=True)
                yield folder
        except resume_after:
            raise
        except Exception:
            _remove(folder)
            raise
        _remove(folder)


def replace_file(path: Path, text: str, backup_name: Callable[[Path], Path] | None = None) -> None:
    """Write a text file, UTF-8, completely or not at all; the caller holds its lock or that of its folder.

    Args:
        path: the file.
        text: its new content.
        backup_name: returns the path to move an existing file to; without it, the existing file is replaced.

    Raises:
        StorageError: the file cannot be written.
    """
    with storing(path):
        _clear(path)
        scratch = _hidden(path, f"partial-{secrets.token_hex(4)}")
        try:
            scratch.write_text(text, encoding="utf-8", newline="\n")
            if backup_name and path.exists():
                path.rename(backup_name(path))
            scratch.replace(path)
        finally:
            _remove(scratch)


def recover(target: Path) -> None:
    """Clean up after a process that died: put back the target that it had moved away, and remove its hidden files.

    Work folders stay while the target is missing: the next run goes on from them. Nothing happens when another process
    is at work or the folder cannot be written.
    """
    with suppress(OSError, ArtifactError, StorageError):
        if _beside(target, "partial") or _beside(target, "previous"):
            with target_lock(target), storing(target):
                _clear(target)
        if target.exists() and _beside(target, "work-"):
            with target_lock(target, "work."):
                for work in _beside(target, "work-"):
                    _remove(work)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a temporary folder for this process; remove the temporary folders of killed processes first.

    Raises:
        StorageError: the system has no place for temporary files.
    """
    try:
        for other in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
            _remove_abandoned(other)
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
    except FileNotFoundError as error:
        hint = "free some space there, or name another folder in TMPDIR"
        raise StorageError(f"there is no place for temporary files ({error.strerror})", hint=hint) from error
    try:
        with FileLock(folder / ".lock"):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove a temporary folder of this user when its process is gone."""
    with suppress(OSError, Timeout):
        status = folder.lstat()
        if folder.is_symlink() or not folder.is_dir() or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
            return
        if not (folder / ".lock").exists() and status.st_mtime > time.time() - _UNLOCKED_SECONDS:
            return
        with FileLock(folder / ".lock", blocking=False):
            shutil.rmtree(folder, ignore_errors=True)


def _clear(target: Path) -> None:
    """Remove what dead processes left beside the target; the caller holds its lock."""
    previous = _hidden(target, "previous")
    if previous.exists() and not target.exists():
        previous.rename(target)
    for leftover in [*_beside(target, "partial"), previous]:
        _remove(leftover)


def _hidden(target: Path, suffix: str) -> Path:
    return target.parent / f".{target.name}.{suffix}"


def _beside(target: Path, kind: str) -> list[Path]:
    return [path for path in target.parent.iterdir() if path.name.startswith(f".{target.name}.{kind}")]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


_DIGEST = 64
"""Characters of the SHA-256 that stands before an entry's content."""


CacheKind = Literal["references", "artifacts", "foreign", "measurements", "tokens", "texts", "hashes", "web"]
"""What the cache holds: the name of a folder below it."""


def cache_folder(kind: CacheKind | Literal[""]) -> Path:
    """Return the cache's folder for one kind of entry, or, for the empty text, the one that holds all kinds.

    It stands in PYTHIA_QUANT_CACHE, or else in ``pythia-quant`` in the user's cache folder.

    Raises:
        StorageError: neither variable is set and the user has no home folder.
    """
    own_cache = os.environ.get("PYTHIA_QUANT_CACHE")
    if own_cache:
        return Path(own_cache) / kind
    user_cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path.home() raises
    if user_cache.startswith("~"):
        raise StorageError(
            "there is no home folder to keep a cache in", hint="name one in PYTHIA_QUANT_CACHE, or set HOME"
        )
    return Path(user_cache) / "pythia-quant" / kind


_PARTIAL = "partial-"
_WAIT_SECONDS = 10.0


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Be the only process that writes entries here. What is half-written then, a killed process has left.

    Raises:
        Timeout: another process holds the lock for long.
    """
    lock = FileLock(folder / ".lock")
    with lock.acquire(timeout=_WAIT_SECONDS):
        for one in folder.glob(f"{_PARTIAL}*"):
            one.unlink()
        try:
            yield
        finally:
            for one in folder.glob(f"{_PARTIAL}*"):  # of this process, when the disk is full
                one.unlink()
            (folder / ".lock").unlink()


class Cache:
    """Entries of one kind, each a file named by its key; processes may share them.

    An entry that is damaged, or cannot be read or written, is as good as none: whoever asks makes its content again.

    Args:
        kind: what the entries are.
        most_bytes: of all entries together. Above it the entries that were read the longest ago are removed.
    """

    def __init__(self, kind: CacheKind, most_bytes: int) -> None:
        self._kind, self._most_bytes = kind, most_bytes

    def read(self, key: str) -> bytes | None:
        """Return the content of an entry; None where there is no such entry, or it is damaged."""
        with suppress(OSError, StorageError):
            path = cache_folder(self._kind) / key
            stored = path.read_bytes()
            digest, content = stored[:_DIGEST], stored[_DIGEST:]
            if hashlib.sha256(content).hexdigest().encode() == digest:
                os.utime(path)
                return content
        return None

    def write(self, key: str, content: bytes) -> None:
        """Make or replace an entry. It is written under another name and renamed: a reader sees all of it or none."""
        if len(content) > self._most_bytes:
            return
        with suppress(OSError, StorageError, Timeout):
            folder = cache_folder(self._kind)
            folder.mkdir(parents=True, exist_ok=True)
            with _writing(folder):
                with NamedTemporaryFile(dir=folder, prefix=_PARTIAL, delete=False) as partial:
                    partial.write(hashlib.sha256(content).hexdigest().encode())
                    partial.write(content)
                Path(partial.name).replace(folder / key)
                self._remove_oldest(folder)

    def _remove_oldest(self, folder: Path) -> None:
        """Remove what is above the limit."""
        entries = [one for one in os.scandir(folder) if not one.name.startswith(".")]
        left = sorted(((one.stat(), one.path) for one in entries), key=lambda one: one[0].st_mtime_ns)
        total = sum(status.st_size for status, _ in left)
        for status, path in left[:-1]:
            if total <= self._most_bytes:
                return
            total -= status.st_size
            with suppress(OSError):
                Path(path).unlink()
