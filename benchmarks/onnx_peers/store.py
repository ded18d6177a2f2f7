"""The result file: every raw sample, written after each, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Store:
    """A result file.

    Args:
        path: the file, which need not exist yet.
        conditions: the machine and the settings that all of its numbers share.

    Raises:
        SystemExit: the file holds numbers of other conditions.
    """

    def __init__(self, path: Path, conditions: Record) -> None:
        self._path = path
        self.data: Record = json.loads(path.read_text()) if path.exists() else {"conditions": conditions, "sizes": {}}
        for name, value in conditions.items():
            if self.data["conditions"].get(name) != value:
                before = self.data["conditions"].get(name)
                raise SystemExit(f"{path}: its {name} is {before!r}, here it is {value!r}; give another --out")

    def conversions(self, size: str) -> dict[str, Record]:
        """Return what conversions took, by the name of a subject."""
        found: dict[str, Record] = self._size(size).setdefault("conversions", {})
        return found

    def rounds(self, size: str, name: str) -> dict[str, Record]:
        """Return a subject's measurements, by the number of the round as text."""
        found: dict[str, Record] = self._size(size).setdefault("rounds", {}).setdefault(name, {})
        return found

    def forget(self, name: str) -> None:
        """Drop all that is known of a subject."""
        for size in self.data["sizes"].values():
            size.get("conversions", {}).pop(name, None)
            size.get("rounds", {}).pop(name, None)

    def save(self) -> None:
        """Write the file; a crash meanwhile leaves the one before."""
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_text(json.dumps(self.data, indent=1) + "\n")
        partial.rename(self._path)

    def _size(self, size: str) -> Record:
        found: Record = self.data["sizes"].setdefault(size, {})
        return found
