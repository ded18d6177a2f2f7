"""ONNX artifacts in ONNX Runtime one layer at a time: a model larger than memory, measured or checked as it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pythia_quant.architecture import read_config
from pythia_quant.formats.onnx.external import StoredModel, find_model
from pythia_quant.formats.onnx.pieces import in_layers
from pythia_quant.runtimes.ort import describe, open_session


class LayerwiseOnnx:
    """Logits of equal-length rows; only one layer's weights are in memory.

    Args:
        folder: an artifact.
        threads: for the kernels.

    Attributes:
        description: library, kernels and dtypes.

    Raises:
        ArtifactError: files are missing, truncated, or ONNX Runtime refuses a layer.
        SourceError: ``config.json`` is missing or not understood.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self._stored, self._threads = StoredModel(find_model(folder)), threads
        self._shape = read_config(folder / "config.json")
        self.description = f"{describe(self._stored.settings)}, layer by layer"

    def logits(self, ids: Tensor) -> Tensor:
        """Return logits for all positions: int64 [rows, tokens] in, fp32 [rows, tokens, vocabulary] out."""
        rows, tokens = ids.shape
        empty = np.zeros((rows, self._shape.heads, 0, self._shape.head_size), np.float32)
        feeds = {"input_ids": ids.numpy(), "attention_mask": np.ones((rows, tokens), np.int64)}
        name = ""
        for piece in in_layers(self._stored.proto, self._shape.layers):
            session = open_session(piece.SerializeToString(), self._stored, self._threads)
            wanted = {entry.name for entry in session.get_inputs()}
            feeds |= {entry: empty for entry in wanted if entry.startswith("past_key_values.")}
            (result,) = session.run(None, {entry: value for entry, value in feeds.items() if entry in wanted})
            feeds.pop(name, None)
            name = session.get_outputs()[0].name
            feeds[name] = result
        return torch.from_numpy(feeds[name])


def open_layers(folder: Path, threads: int) -> LayerwiseOnnx:
    """Open an artifact to run it layer by layer; see :class:`LayerwiseOnnx`."""
    return LayerwiseOnnx(folder, threads)
