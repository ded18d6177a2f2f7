"""Files that belong to a folder. A link out of the folder is refused: it may point at any of the user's files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pythia_quant.errors import PythiaQuantError

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
