"""Which files belong to a folder. A link that leads out of it is refused: its target may be anything of the user's."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pythia_quant.errors import PythiaQuantError

COMMIT = re.compile(r"[0-9a-f]{40}")
"""The id of a commit on a hub."""


def own_file(folder: Path, name: str, kind: type[PythiaQuantError]) -> Path | None:
    """Return a file of a folder; None when there is nothing of that name.

    Links are followed within the folder and, where it is a snapshot in huggingface_hub's cache, to that cache's blobs.

    Args:
        folder: a checkpoint's or an artifact's.
        name: of the file, relative to it.
        kind: what is raised.

    Raises:
        PythiaQuantError: of that kind; a link leads out of the folder or nowhere, or it is no ordinary file: a pipe
            would never end.
    """
    path = folder / name
    if not os.path.lexists(path):
        return None
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
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
    """Return the folder ``…/snapshots/<commit>`` of huggingface_hub's cache in which a path lies, or that it is."""
    parts = (part for part in (path, *path.parents) if part.parent.name == "snapshots")
    return next((part for part in parts if COMMIT.fullmatch(part.name)), None)


def _roots(folder: Path) -> list[Path]:
    """Return the folders in which a folder's links may end."""
    found = [folder.resolve()]
    for snapshot in filter(None, map(snapshot_of, (folder.absolute(), found[0]))):
        repository = snapshot.parent.parent
        # The second is where the client keeps what several repositories share.
        found += [(repository / "blobs").resolve(), (repository.parent / "blobs").resolve()]
    return found
