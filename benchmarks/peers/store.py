"""The result file: it is written after every raw sample, so that a run that was stopped goes on where it was."""

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
        self.data: Record = json.loads(path.read_text()) if path.exists() else {"conditions": conditions}
        for name, value in conditions.items():
            if self.data["conditions"].get(name) != value:
                before = self.data["conditions"].get(name)
                raise SystemExit(f"{path}: its {name} is {before!r}, here it is {value!r}; give another --out")

    def save(self) -> None:
        """Write the file; after a crash, the file is as before."""
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_text(json.dumps(self.data, indent=1) + "\n")
        partial.rename(self._path)
