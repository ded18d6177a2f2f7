"""What a killed conversion goes on from: the layers already solved, and the calibration windows before the next."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.core.files import replace_file
from pythia_quant.core.foreign_files import read_json, read_object
from pythia_quant.quantizers.calibration import AGAIN

_REACHED = "reached.json"


class WorkFolder:
    """Holds a conversion's state after its last solved layer.

    A layer counts as solved when the file that says so is renamed into place; all else may be half-written. Beside it
    are, for each solved layer, ``layer-N.safetensors`` and ``layer-N.json``, and for the next the folder ``before-N``.

    Args:
        folder: made when it is not there.

    Raises:
        QuantizationError: here and where it is read, what the folder holds is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        reached = folder / _REACHED
        self.solved: int | None = None
        if reached.exists():
            self.solved = read_json(reached, QuantizationError, AGAIN)
            if type(self.solved) is not int or self.solved < 0:
                raise QuantizationError("is no number of layers", where=str(reached), hint=AGAIN)

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
        return read_object(self._layer(index, "json"), QuantizationError, AGAIN)

    def tensors(self, index: int) -> Iterator[tuple[str, Tensor]]:
        """Give a solved layer's tensors one at a time."""
        path = self._layer(index, "safetensors")
        try:
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise QuantizationError(f"cannot be read ({error!s:.200})", where=str(path), hint=AGAIN) from error

    def _layer(self, index: int, suffix: str) -> Path:
        return self._folder / f"layer-{index}.{suffix}"
