"""The folder a conversion leaves: complete or absent, and verifiable."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from pythia_quant.errors import ArtifactError, BenchmarkError
from pythia_quant.formats import AnyVariant
from pythia_quant.hub_files import sha256
from pythia_quant.manifest import MANIFEST, FileRecord, Manifest
from pythia_quant.settings import VariantSettings


@dataclass(frozen=True)
class Artifact:
    """An opened artifact."""

    folder: Path
    manifest: Manifest
    settings: VariantSettings


def open_artifact(folder: Path) -> Artifact:
    """Read an artifact's manifest. Files are compared with it by :func:`verify_files`.

    Raises:
        ArtifactError: there is no manifest, or a newer version wrote it.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
        settings: VariantSettings = TypeAdapter(AnyVariant).validate_python(manifest.settings)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"there is no {MANIFEST}, so this is no artifact of ours", where=str(folder), hint="give a variant's folder"
        ) from error
    except (OSError, ValidationError) as error:
        reason = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else {"msg": str(error)}
        raise ArtifactError(
            f"cannot be read: {'.'.join(map(str, reason.get('loc', ())))} {reason['msg']}",
            where=str(path),
            hint="a newer pythia-quant may have written it, or it was edited; convert again",
        ) from error
    return Artifact(folder, manifest, settings)


def hash_files(folder: Path) -> dict[str, FileRecord]:
    """Return size and SHA-256 of every file below `folder` but the manifest, by relative path."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        path.relative_to(folder).as_posix(): FileRecord(bytes=path.stat().st_size, sha256=sha256(path))
        for path in found
    }


def verify_files(artifact: Artifact) -> None:
    """Compare the files with the manifest.

    Raises:
        ArtifactError: a file is missing, altered, or not in the manifest.
    """
    found, listed = hash_files(artifact.folder), artifact.manifest.files
    where, again = str(artifact.folder), "convert again with --overwrite"
    for name in listed.keys() | found.keys():
        if name not in found:
            raise ArtifactError(f"the file {name} is missing", where=where, hint=again)
        if name not in listed:
            raise ArtifactError(f"the file {name} is not in the manifest", where=where, hint="move it elsewhere")
        if found[name] != listed[name]:
            raise ArtifactError(f"the file {name} was changed since the conversion", where=where, hint=again)


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
    """
    folder = target.parent / f".{target.name}.work-{fingerprint}"
    for other in target.parent.glob(f".{target.name}.work-*"):
        if other != folder:
            with _held(other, target):
                shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder, target):
        try:
            yield folder
        except kept_on:
            raise
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder)


@contextmanager
def _held(folder: Path, target: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ArtifactError("another process is at work on it", where=str(target), hint="wait for it to end") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target` and rename it to `target` at the end; on an error it is removed.

    Killed at any moment, this leaves at most a hidden folder beside the target, which the next run for the same target
    removes; what `target` held before stays, or is put back then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    previous = target.parent / f".{target.name}.previous"
    if previous.exists() and not target.exists():
        previous.rename(target)
    _remove_abandoned(target)
    scratch = target.parent / f".{target.name}.partial-{os.getpid()}"
    scratch.mkdir()
    try:
        yield scratch
        if target.exists():
            target.rename(previous)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(previous, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    shutil.rmtree(target.parent / f".{target.name}.previous", ignore_errors=True)
    for folder in target.parent.glob(f".{target.name}.partial-*"):
        if not psutil.pid_exists(int(folder.name.rpartition("-")[2])):
            shutil.rmtree(folder, ignore_errors=True)
