"""Files that somebody else may have written: ordinary ones, within limits, inside their folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.text import printable


def read_ordinary(path: Path, most_bytes: int, kind: type[PythiaQuantError], hint: str = "") -> bytes:
    """Return a file's content.

    Args:
        path: an ordinary file: a pipe would never end.
        most_bytes: the largest size that is read.
        kind: the class of the error to raise.
        hint: what the user can do when the file cannot be read.

    Raises:
        PythiaQuantError: of class `kind`; the file is missing, not an ordinary file, too large, or not readable.
    """
    where = str(path)
    try:
        if not path.is_file():
            raise kind("is no file" if path.exists() else "there is no such file", where=where, hint=hint)
        size = path.stat().st_size
        content = b"" if size > most_bytes else _read(path, most_bytes + 1)
        if (size := max(size, len(content))) > most_bytes:
            most = f"{most_bytes / 1e6:,.1f} MB"
            raise kind(f"has {size / 1e6:,.1f} MB, too many for what it is: {most} at most", where=where, hint=hint)
        return content
    except OSError as error:
        raise kind(f"cannot be read ({error.strerror})", where=where, hint=hint) from error
    except ValueError as error:  # a NUL in the name
        raise kind(f"cannot be read ({error})", where=where, hint=hint) from error


def _read(path: Path, most_bytes: int) -> bytes:
    """Read a file's first bytes and never block: some files in /proc look ordinary, but reading them waits."""

    def open_nonblocking(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with open(path, "rb", opener=open_nonblocking) as file:
        return file.read(most_bytes) or b""


MOST_BYTES = 500_000_000
"""Larger files are refused without reading them. The index of the largest model is a hundred times smaller."""


def read_json(path: Path, kind: type[PythiaQuantError], hint: str = "") -> Any:
    """Read a JSON file.

    Args:
        path: an ordinary file: a pipe would never end.
        kind: the class of the error to raise.
        hint: what the user can do when the file cannot be read.

    Raises:
        PythiaQuantError: of class `kind`; the file is missing, too large, no JSON, nested too deeply, or no valid text.
    """
    content = read_ordinary(path, MOST_BYTES, kind, hint)
    return parse_json(content, str(path), kind, hint)


def parse_json(content: bytes, where: str, kind: type[PythiaQuantError], hint: str = "") -> Any:
    """Parse JSON; see :func:`read_json`."""
    try:
        text = content.decode("utf-8-sig")  # json.loads(bytes) would let half surrogate pairs pass
        data = json.loads(text)
        if "\\u" in text:
            json.dumps(data, ensure_ascii=False).encode()  # raises for half surrogate pairs written as escapes
    except RecursionError as error:
        raise kind("is nested too deeply", where=where, hint=hint) from error
    except ValueError as error:
        raise kind(f"is not JSON ({error})", where=where, hint=hint) from error
    return data


def read_object(path: Path, kind: type[PythiaQuantError], hint: str = "") -> dict[str, Any]:
    """Read a JSON file that holds an object; see :func:`read_json`."""
    data = read_json(path, kind, hint)
    if not isinstance(data, dict):
        raise kind("is not a JSON object", where=str(path), hint=hint)
    return data


COMMIT = re.compile(r"[0-9a-f]{40}")
"""The id of a commit on a hub."""


def own_file(folder: Path, name: str, kind: type[PythiaQuantError]) -> Path | None:
    """Return the path of a file in a folder, or None when the folder has no file of that name.

    Links may lead to other files in the folder. In a snapshot of huggingface_hub's cache, they may also lead to the
    cache's blobs.

    Args:
        folder: the folder of a checkpoint or an artifact.
        name: the file's path relative to `folder`.
        kind: the class of the error to raise.

    Raises:
        PythiaQuantError: of class `kind`; a link leads out of the folder or nowhere, or the file is not an ordinary
            one: a pipe would never end.
    """
    path = folder / name
    if not os.path.lexists(path):
        return None
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: circular links
        raise kind(f"{name} is a link to nothing", where=str(folder), hint="download or copy the file anew") from error
    if not any(target.is_relative_to(root) for root in _roots(folder)):
        raise kind(
            f"{name} is a link that leads out of the folder, to {target}",
            where=str(folder),
            hint="if the file belongs here, put a copy of it in the link's place",
        )
    if not target.is_file():
        raise kind(f"{name} is no ordinary file", where=str(folder), hint="move it elsewhere")
    return path


def snapshot_of(path: Path) -> Path | None:
    """Return the folder ``…/snapshots/<commit>`` of huggingface_hub's cache that is `path` or contains it."""
    parts = (part for part in (path, *path.parents) if part.parent.name == "snapshots")
    return next((part for part in parts if COMMIT.fullmatch(part.name)), None)


def _roots(folder: Path) -> list[Path]:
    """Return the folders that links in `folder` may point into."""
    roots = [folder.resolve()]
    for snapshot in filter(None, map(snapshot_of, (folder.absolute(), roots[0]))):
        repository = snapshot.parent.parent
        # The client stores files that several repositories share in the second folder.
        roots += [(repository / "blobs").resolve(), (repository.parent / "blobs").resolve()]
    return roots


MANIFEST = "pythia_quant.json"
SIGNATURE, STATEMENT = "model.sig", "origin.intoto.json"
"""In a signed artifact: the signature, and the statement of origin, which is signed as every file is."""
SBOM = "sbom.cdx.json"
"""A bill of materials that somebody has put into an artifact."""
ADDED = (SIGNATURE, STATEMENT, SBOM)
"""What a signer may add to an artifact. It is published, and pulled; no runtime reads it."""

# Names of devices on Windows, whatever follows the dot.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


def artifact_file_name(name: str) -> str:
    """Refuse a path that leads out of the artifact on some system, or is no plain name: a hub may send any path."""
    parts = name.split("/")
    plain = not any(sign in name for sign in '\\:"<>|?*\n\t') and printable(name) == name
    if not plain or len(name) > 1024 or any(not _is_plain(part) for part in parts):
        raise ValueError("is no path within the artifact")
    if name.lower() == MANIFEST:
        raise ValueError("is the manifest itself")
    return name


def _is_plain(part: str) -> bool:
    hidden = part.startswith(".")  # and "." and ".."
    return bool(part) and not hidden and part == part.rstrip(" .") and not _RESERVED.fullmatch(part) and len(part) < 200


def is_file_name(name: str) -> bool:
    """Say whether a manifest may list a file under this name."""
    try:
        return bool(artifact_file_name(name))
    except ValueError:
        return False
