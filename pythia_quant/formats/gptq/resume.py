"""What a killed conversion goes on from: the layers already solved, and the calibration windows before the next."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pythia_quant.folders import replace_file

_REACHED = "reached.json"


class Progress:
    """A folder that holds a conversion's state after its last solved layer.

    A layer counts as solved when the file that says so is renamed into place; all else may be half-written. Beside it
    are, for each solved layer, ``layer-N.safetensors`` and ``layer-N.json``, and for the next the folder ``before-N``.

    Args:
        folder: made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        reached = folder / _REACHED
        self.solved: int | None = json.loads(reached.read_text()) if reached.exists() else None

    def fresh(self, index: int) -> Path:
        """Return an empty folder for the windows before a layer."""
        folder = self.before(index)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def before(self, index: int) -> Path:
        """Return the folder of the windows before a layer."""
        return self._folder / f"before-{index}"

    def reach(self, index: int) -> None:
        """Record that all layers before `index`, and the windows before it, are written."""
        replace_file(self._folder / _REACHED, json.dumps(index))
        self.solved = index
        shutil.rmtree(self.before(index - 1), ignore_errors=True)

    def save_layer(self, index: int, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Keep a solved layer's stored tensors, under their full names, and what the manifest will say of it."""
        save_file(tensors, self._layer(index, "safetensors"))
        self._layer(index, "json").write_text(json.dumps(notes))

    def notes(self, index: int) -> dict[str, Any]:
        """Return what :meth:`save_layer` was given."""
        notes: dict[str, Any] = json.loads(self._layer(index, "json").read_text())
        return notes

    def tensors(self, index: int) -> Iterator[tuple[str, Tensor]]:
        """Give a solved layer's tensors one at a time."""
        with safe_open(self._layer(index, "safetensors"), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                yield name, opened.get_tensor(name)

    def _layer(self, index: int, suffix: str) -> Path:
        return self._folder / f"layer-{index}.{suffix}"
