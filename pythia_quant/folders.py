"""Files and folders that are complete or absent, each made by one process at a time.

They are made beside their target under a hidden name, and renamed. A lock says that a process is at it: what is found
while nobody holds the lock was left by one that died, whatever its number was, and goes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pythia_quant.errors import ArtifactError, BenchmarkError, StorageError
from pythia_quant.storage import storing

_TEMPORARY = "pythia-quant-"
_UNLOCKED_SECONDS = 3600
"""A temporary folder without a lock may be one that is being made; after so long it is not."""


@contextmanager
def held(target: Path, part: str = "", *, wait: bool = False) -> Iterator[None]:
    """Keep other processes, and this one, from making `target` meanwhile.

    Args:
        target: what is made; its folder is made when it is not there.
        part: of the making, where parts have locks of their own.
        wait: for the process that is at it, rather than to refuse.

    Raises:
        ArtifactError: another process is at it.
        StorageError: nothing can be written there.
    """
    path = _hidden(target, f"{part}lock")
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(blocking=wait)
        except Timeout as error:
            if not path.exists():  # as it looks where no file can be made, in /proc
                raise StorageError("cannot be written", where=str(target), hint="choose another folder") from error
            raise ArtifactError(
                "another process is at work on it", where=str(target), hint="wait for it to end"
            ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # a process that waits for it notices, and makes a new one
        lock.release()


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target` and rename it to `target` at the end; on an error it is removed.

    Killed at any moment, this leaves at most hidden files and folders beside the target, which the next run for the
    same target removes; what `target` held before stays, or is put back then.

    Raises:
        ArtifactError: another process is at work on the same target.
        StorageError: it cannot be written.
    """
    with held(target), fresh_folder(target) as folder:
        yield folder


@contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """Do what :func:`scratch_folder` does, for a process that holds the target."""
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
def work_folder(
    target: Path, fingerprint: str, kept_on: tuple[type[Exception], ...] = (BenchmarkError,)
) -> Iterator[Path]:
    """Give a folder beside `target` that a killed process leaves to the next one of the same fingerprint.

    It is removed when all is done, and those of other fingerprints before. Until then it is this process's alone.

    Args:
        target: what is made.
        fingerprint: of all that the work depends on.
        kept_on: errors after which the work is kept, because what was done is as good as before: by default that a
            process died. After any other it is removed, but not after an interruption.

    Raises:
        ArtifactError: another process is at work on the same target.
        StorageError: it cannot be written.
    """
    folder = _hidden(target, f"work-{fingerprint}")
    with held(target, "work."):
        for other in _beside(target, "work-"):
            if other != folder:
                _remove(other)
        try:
            with storing(target):
                folder.mkdir(exist_ok=True)
                yield folder
        except kept_on:
            raise
        except Exception:
            _remove(folder)
            raise
        _remove(folder)


def replace_file(path: Path, text: str, earlier: Callable[[Path], Path] | None = None) -> None:
    """Write a text file, UTF-8, that is complete or as it was before, for a process that holds it or its folder.

    Args:
        path: where.
        text: its content.
        earlier: gives the name under which a file that is there already is kept; it is replaced unless given.

    Raises:
        StorageError: it cannot be written.
    """
    with storing(path):
        _clear(path)
        scratch = _hidden(path, f"partial-{secrets.token_hex(4)}")
        try:
            scratch.write_text(text, encoding="utf-8", newline="\n")
            if earlier and path.exists():
                path.rename(earlier(path))
            scratch.replace(path)
        finally:
            _remove(scratch)


def recover(target: Path) -> None:
    """Put back what a process that died had moved from `target`, and remove what it left beside it.

    Work that can be gone on with stays while there is no target. Nothing is done where another process is at work, or
    nothing may be written.
    """
    with suppress(OSError, ArtifactError, StorageError):
        if _beside(target, "partial") or _beside(target, "previous"):
            with held(target), storing(target):
                _clear(target)
        if target.exists() and _beside(target, "work-"):
            with held(target, "work."):
                for work in _beside(target, "work-"):
                    _remove(work)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder for files of this process only; those of processes that were killed are removed first.

    Raises:
        StorageError: there is no place for it.
    """
    try:
        for left in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
            _remove_abandoned(left)
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
    """Remove a temporary folder of this user's whose process is gone."""
    with suppress(OSError, Timeout):
        found = folder.lstat()
        if folder.is_symlink() or not folder.is_dir() or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
            return
        if not (folder / ".lock").exists() and found.st_mtime > time.time() - _UNLOCKED_SECONDS:
            return
        with FileLock(folder / ".lock", blocking=False):
            shutil.rmtree(folder, ignore_errors=True)


def _clear(target: Path) -> None:
    """Remove what others left half-done; for the process that holds the target."""
    previous = _hidden(target, "previous")
    if previous.exists() and not target.exists():
        previous.rename(target)
    for left in [*_beside(target, "partial"), previous]:
        _remove(left)


def _hidden(target: Path, of: str) -> Path:
    return target.parent / f".{target.name}.{of}"


def _beside(target: Path, kind: str) -> list[Path]:
    return [path for path in target.parent.iterdir() if path.name.startswith(f".{target.name}.{kind}")]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
