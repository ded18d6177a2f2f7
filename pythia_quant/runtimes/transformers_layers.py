"""Run models in transformers' layers with one layer in memory at a time: sources in any dtype, and GPTQ artifacts."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import GPTNeoXConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer, GPTNeoXRotaryEmbedding

from pythia_quant.core import compat
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, layer_name
from pythia_quant.model.source import open_weights
from pythia_quant.model.weights import WeightReader
from pythia_quant.runtimes.protocol import Stage


class TorchLayers:
    """An unquantized checkpoint in stages; see :class:`pythia_quant.runtimes.protocol.Layered`.

    Args:
        reader: the weights of the checkpoint.
        dtype: the dtype of weights, arithmetic and hidden states.
    """

    def __init__(self, reader: WeightReader, dtype: torch.dtype) -> None:
        self.reader, self.dtype = reader, dtype
        self.description = layers_description(str(dtype).removeprefix("torch."))
        self.width = reader.architecture.width
        self.stages = reader.architecture.layers + 1
        self._config = GPTNeoXConfig(**reader.architecture.config())
        compat.use_sdpa(self._config)
        self._rotary = GPTNeoXRotaryEmbedding(self._config)

    def embedding(self) -> Stage:
        """Load the embeddings; the stage returns hidden states in the dtype of the arithmetic."""
        table = self.reader.read(EMBEDDING)
        return lambda ids: F.embedding(ids, table).to(self.dtype)

    def stage(self, index: int) -> Stage:
        """Load a layer; the stage after the last layer is the final norm."""
        if index == self.stages - 1:
            norm = nn.LayerNorm(self.width, eps=self.reader.architecture.norm_epsilon, device="meta")
            self._load(norm, FINAL_NORM)
            return norm
        with torch.device("meta"):  # allocates no memory for the tensors, which are replaced below
            layer = GPTNeoXLayer(self._config, index)
        self._load(layer, layer_name(index))
        layer.eval()

        def run(hidden: torch.Tensor) -> torch.Tensor:
            positions = torch.arange(hidden.shape[1])[None]
            after: torch.Tensor = layer(hidden, position_embeddings=self._rotary(hidden, positions))
            return after

        return run

    def head(self) -> Stage:
        """Load the head; the stage multiplies in the dtype of the arithmetic and returns fp32."""
        weight = self.reader.read(HEAD).to(self.dtype)
        return lambda hidden: F.linear(hidden, weight).float()

    def _load(self, module: nn.Module, prefix: str) -> None:
        state = {name: self.reader.read(f"{prefix}.{name}").to(self.dtype) for name in module.state_dict()}
        module.load_state_dict(state, assign=True)


def layers_description(kernel: str) -> str:
    """Return the description of layers in transformers; `kernel` names that of the linear layers and its dtype."""
    return f"transformers {transformers.__version__}, torch {torch.__version__}, {kernel}, sdpa, layer by layer"


def open_source_layers(folder: Path, dtype: torch.dtype) -> TorchLayers:
    """Open an unquantized checkpoint to run it layer by layer.

    Args:
        folder: the folder of the checkpoint.
        dtype: the dtype of weights, arithmetic and hidden states.

    Raises:
        SourceError: a file is missing or damaged.
    """
    return TorchLayers(open_weights(folder), dtype)
