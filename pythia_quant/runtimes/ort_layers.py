"""ONNX artifacts in ONNX Runtime one layer at a time: a model larger than memory, measured or checked as it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from pythia_quant.formats.onnx.graph_check import open_model
from pythia_quant.formats.onnx.pieces import in_layers
from pythia_quant.formats.onnx.rotary import kept_head_size
from pythia_quant.runtimes.ort import describe, open_session
from pythia_quant.runtimes.protocol import Stage


class OnnxLayers:
    """An ONNX artifact in pieces; see :class:`pythia_quant.runtimes.protocol.Layered`.

    Args:
        folder: an artifact.
        threads: for the kernels.

    Raises:
        ArtifactError: files are missing, truncated, not finite, or ONNX Runtime refuses a layer.
        SourceError: ``config.json`` is missing or not understood.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self._stored, self._shape = open_model(folder)
        self._stored.check_finite()
        self._threads = threads
        self.description = f"{describe(self._stored.settings)}, layer by layer"
        self.dtype, self.width, self.stages = torch.float32, self._shape.width, self._shape.layers
        self._pieces = in_layers(self._stored.proto, self._shape.layers)

    def embedding(self) -> Stage:
        """Load the first piece."""
        return self._session(self._pieces[0])

    def stage(self, index: int) -> Stage:
        """Load a layer's piece."""
        return self._session(self._pieces[index + 1])

    def head(self) -> Stage:
        """Load the last piece, the final norm included."""
        run = self._session(self._pieces[-1])
        return lambda hidden: run(hidden[None])[0]

    def _session(self, piece: ModelProto) -> Stage:
        session = open_session(piece, self._stored, self._threads)
        wanted = {entry.name for entry in session.get_inputs()}
        past = [name for name in wanted if name.startswith("past_key_values.")]
        (entered,) = wanted - {*past, "attention_mask", "num_logits_to_keep"}

        def run(values: Tensor) -> Tensor:
            rows, tokens = values.shape[:2]
            empty = np.zeros((rows, self._shape.heads, 0, kept_head_size(self._shape)), np.float32)
            feeds = dict.fromkeys(past, empty) | {entered: values.numpy()}
            if "attention_mask" in wanted:
                feeds["attention_mask"] = np.ones((rows, tokens), np.int64)
            (result,) = session.run(None, feeds)
            return torch.from_numpy(result)

        return run


def open_layers(folder: Path, threads: int) -> OnnxLayers:
    """Open an artifact to run it layer by layer; see :class:`OnnxLayers`."""
    return OnnxLayers(folder, threads)
