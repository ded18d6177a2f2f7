"""The state of a conversion on disk, from which the next call continues: solved layers, and windows before the next."""

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
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.files import replace_file
from pythia_quant.core.foreign_files import read_object
from pythia_quant.quantizers.calibration import AGAIN

_REACHED = "reached.json"


class WorkFolder:
    """The folder with the state of a conversion after its last solved layer.

    It holds ``layer-N.safetensors`` and ``layer-N.json`` for each solved layer, the folder ``before-N`` for the next
    layer, and ``reached.json`` with the number of solved layers and the hashes of all these files. Only the layers that
    ``reached.json`` counts are complete; it is replaced at once.

    Args:
        folder: the path; the folder is made if it is missing.

    Attributes:
        solved_layers: the number of solved layers; None before the windows before the first layer are written.

    Raises:
        QuantizationError: a file is damaged; the methods that read files raise it, too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        reached = folder / _REACHED
        self.solved_layers: int | None = None
        self._hashes: dict[str, str] = {}
        if reached.exists():
            state = read_object(reached, QuantizationError, AGAIN)
            layers, hashes = state.get("layers"), state.get("sha256")
            # Each solved layer has two files, so a number that somebody made up cannot be large.
            if type(layers) is not int or not isinstance(hashes, dict) or not 0 <= 2 * layers <= len(hashes):
                raise QuantizationError("does not say how many layers are solved", where=str(reached), hint=AGAIN)
            self.solved_layers, self._hashes = layers, hashes
            if self._hashes != self._hashes_now():
                raise QuantizationError("holds other files than were written there", where=str(folder), hint=AGAIN)

    def make_before(self, index: int) -> Path:
        """Make an empty folder for the windows before a layer, and return it."""
        folder = self.before(index)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def before(self, index: int) -> Path:
        """Return the folder of the windows before a layer."""
        return self._folder / f"before-{index}"

    def reach(self, index: int) -> None:
        """Record that all layers before `index` are written, and so are the windows before it."""
        self.solved_layers = index
        layers = {name: value for name, value in self._hashes.items() if name.startswith("layer-")}
        self._hashes = self._hashes_now(layers)
        replace_file(self._folder / _REACHED, json.dumps({"layers": index, "sha256": self._hashes}))
        shutil.rmtree(self.before(index - 1), ignore_errors=True)

    def _hashes_now(self, known: dict[str, str] | None = None) -> dict[str, str]:
        """Return the hashes of the solved layers and of the windows before the next. A missing file has none.

        Args:
            known: those of files that have not changed since.
        """
        known = known or {}
        solved = self.solved_layers or 0
        layers = [self._layer(index, suffix) for index in range(solved) for suffix in ("safetensors", "json")]
        files = [*layers, *sorted(self.before(solved).glob("*"))]
        names = {path.relative_to(self._folder).as_posix(): path for path in files if path.is_file()}
        return {name: known.get(name) or sha256(path) for name, path in names.items()}

    def save_layer(self, index: int, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Write a solved layer: its tensors under their names in the artifact, and its notes for the manifest."""
        for suffix in ("safetensors", "json"):
            self._hashes.pop(self._layer(index, suffix).name, None)
        save_file(tensors, self._layer(index, "safetensors"))
        self._layer(index, "json").write_text(json.dumps(notes))

    def notes(self, index: int) -> dict[str, Any]:
        """Read the notes of a solved layer."""
        return read_object(self._layer(index, "json"), QuantizationError, AGAIN)

    def tensors(self, index: int) -> Iterator[tuple[str, Tensor]]:
        """Read the tensors of a solved layer one at a time, each with its name in the artifact."""
        path = self._layer(index, "safetensors")
        try:
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise QuantizationError(f"cannot be read ({error!s:.200})", where=str(path), hint=AGAIN) from error

    def _layer(self, index: int, suffix: str) -> Path:
        return self._folder / f"layer-{index}.{suffix}"
