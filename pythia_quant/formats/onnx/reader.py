"""Read an ONNX artifact back as an equivalent GPT-NeoX checkpoint in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pythia_quant import architecture as checkpoint
from pythia_quant.architecture import Architecture, read_config
from pythia_quant.formats.onnx import blocks, graph
from pythia_quant.formats.onnx.external import StoredModel, find_model
from pythia_quant.formats.onnx.fold import FoldedLayer, unfold
from pythia_quant.weights import WeightReader


def read(folder: Path) -> WeightReader:
    """Open an artifact; its tensors come dequantized, under a checkpoint's names and in its layouts.

    The model is the one the graph computes, not the source's own tensors: LayerNorm gains within layers are 1, biases
    0, both having been folded into the linear layers.

    Raises:
        ArtifactError: files are missing, truncated, or not written by this program.
        SourceError: ``config.json`` is missing or not understood.
    """
    return _Weights(read_config(folder / "config.json"), StoredModel(find_model(folder)))


class _Weights:
    """The tensors of a stored model. The layer read last stays in memory: its tensors share two matrices."""

    def __init__(self, architecture: Architecture, model: StoredModel) -> None:
        self.architecture = architecture
        self._model, self._settings = model, model.settings()
        self._layer: tuple[int, dict[str, Tensor]] = (-1, {})

    def read(self, name: str) -> Tensor:
        """Return one tensor in fp32.

        Raises:
            ArtifactError: the model lacks it.
        """
        match name.split("."):
            case ["gpt_neox", "layers", index, *rest]:
                return self._read_layer(int(index))[".".join(rest)]
            case ["gpt_neox", "final_layer_norm", part]:
                return self._tensor(f"{graph.FINAL_NORM}.{part}")
        if name == checkpoint.EMBEDDING:
            stored = graph.EMBEDDINGS
            return self._tensor(f"{stored}.weight") if self._settings.embeddings == "fp32" else self._blocks(stored)
        return self._linear(graph.HEAD, self._settings.head)

    def _read_layer(self, index: int) -> dict[str, Tensor]:
        if self._layer[0] != index:
            inner, outer = graph.inner(index), graph.outer(index)
            folded = FoldedLayer(
                inner=self._linear(inner, self._settings.weights),
                inner_bias=self._tensor(f"{inner}.bias"),
                outer=self._linear(outer, self._settings.weights),
                outer_bias=self._tensor(f"{outer}.bias"),
            )
            self._layer = index, unfold(self.architecture, folded)
        return self._layer[1]

    def _linear(self, name: str, kind: str) -> Tensor:
        """Return a linear layer's weight, fp32 [out, in]."""
        return self._tensor(f"{name}.weight").t() if kind == "fp32" else self._blocks(name)

    def _blocks(self, name: str) -> Tensor:
        codes = self._tensor(f"{name}.codes").flatten(1)
        return blocks.from_stored(codes, self._tensor(f"{name}.scales")).dequantize()

    def _tensor(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self._model.array(name)))
