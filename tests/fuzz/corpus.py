"""Inputs that reached code which no other reached: a text file for each reader, an input in base64 a line."""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path

_FOLDER = Path(__file__).parent / "corpus"
_MOST = 150
_LONGEST = 1024


def names() -> list[str]:
    """Return the names of all readers."""
    from fuzz.readers import READERS

    return list(READERS)


def load(name: str) -> list[bytes]:
    """Return the inputs of a reader."""
    path = _FOLDER / f"{name}.txt"
    return [b64decode(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(name: str, folder: Path) -> int:
    """Write the shortest inputs of a folder as those of a reader, and return how many."""
    contents = {path.read_bytes() for path in folder.iterdir()}
    chosen = sorted((each for each in contents if len(each) <= _LONGEST), key=lambda each: (len(each), each))[:_MOST]
    _FOLDER.mkdir(exist_ok=True)
    (_FOLDER / f"{name}.txt").write_text("".join(f"{b64encode(each).decode()}\n" for each in chosen))
    return len(chosen)
