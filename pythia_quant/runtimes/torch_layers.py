"""Models in transformers' own layers, one layer in memory at a time: sources in any dtype, and GPTQ artifacts."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import GPTNeoXConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer, GPTNeoXRotaryEmbedding

from pythia_quant.core import compat
from pythia_quant.formats.gptq.reader import GptqWeights, read
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS, layer_name
from pythia_quant.model.source import open_weights
from pythia_quant.model.weights import WeightReader
from pythia_quant.runtimes.int4 import HalfHead, describe, kernel_group_size, linear_layer
from pythia_quant.runtimes.layered import Stage


class TorchLayers:
    """An unquantized checkpoint; see :class:`pythia_quant.runtimes.layered.Layered`.

    Args:
        reader: its weights.
        dtype: of weights, arithmetic and hidden states.
    """

    def __init__(self, reader: WeightReader, dtype: torch.dtype) -> None:
        self.reader, self.dtype = reader, dtype
        self.description = _describe(str(dtype).removeprefix("torch."))
        self.width = reader.architecture.width
        self.stages = reader.architecture.layers + 1
        self._config = GPTNeoXConfig(**reader.architecture.config())
        compat.use_sdpa(self._config)
        self._rotary = GPTNeoXRotaryEmbedding(self._config)

    def embedding(self) -> Stage:
        """Look up in the dtype of the arithmetic."""
        table = self.reader.read(EMBEDDING)
        return lambda ids: F.embedding(ids, table).to(self.dtype)

    def stage(self, index: int) -> Stage:
        """Load a layer or, after the last, the final norm."""
        if index == self.stages - 1:
            norm = nn.LayerNorm(self.width, eps=self.reader.architecture.norm_epsilon, device="meta")
            self._load(norm, FINAL_NORM)
            return norm
        with torch.device("meta"):  # no memory and no random values for what is replaced
            layer = GPTNeoXLayer(self._config, index)
        self._load(layer, layer_name(index))
        layer.eval()

        def run(hidden: torch.Tensor) -> torch.Tensor:
            positions = torch.arange(hidden.shape[1])[None]
            after: torch.Tensor = layer(hidden, position_embeddings=self._rotary(hidden, positions))
            return after

        return run

    def head(self) -> Stage:
        """Multiply in the dtype of the arithmetic."""
        weight = self.reader.read(HEAD).to(self.dtype)
        return lambda hidden: F.linear(hidden, weight).float()

    def _load(self, module: nn.Module, prefix: str) -> None:
        state = {name: self.reader.read(f"{prefix}.{name}").to(self.dtype) for name in module.state_dict()}
        module.load_state_dict(state, assign=True)


class GptqLayers(TorchLayers):
    """A GPTQ artifact, with the linear layers that :mod:`pythia_quant.runtimes.int4` runs whole models in."""

    def __init__(self, weights: GptqWeights) -> None:
        super().__init__(weights, torch.float32)
        self._weights = weights
        names = [f"{layer_name(0)}.{linear}.weight" for linear in LINEARS] * weights.architecture.layers
        names += [HEAD] if weights.is_quantized(HEAD) else []
        in_kernel = {name: kernel_group_size(weights.quantized(name)) is not None for name in set(names)}
        dequantized = sum(not in_kernel[name] for name in names)
        self.description = _describe(describe(weights, dequantized))

    def head(self) -> Stage:
        """Multiply in integers, or in the fp16 that is stored."""
        if self._weights.is_quantized(HEAD):
            return linear_layer(self._weights.quantized(HEAD), torch.zeros(self.reader.architecture.vocabulary))
        head = HalfHead(self.reader.read(HEAD))
        return lambda hidden: head(hidden).float()

    def _load(self, module: nn.Module, prefix: str) -> None:
        if isinstance(module, GPTNeoXLayer):
            for linear in LINEARS:
                name = f"{prefix}.{linear}"
                bias = self.reader.read(f"{name}.bias")
                module.set_submodule(linear, linear_layer(self._weights.quantized(f"{name}.weight"), bias))
            for norm in ("input_layernorm", "post_attention_layernorm"):
                super()._load(module.get_submodule(norm), f"{prefix}.{norm}")
        else:
            super()._load(module, prefix)


def _describe(kernel: str) -> str:
    return f"transformers {transformers.__version__}, torch {torch.__version__}, {kernel}, sdpa, layer by layer"


def open_source(folder: Path, dtype: torch.dtype) -> TorchLayers:
    """Open an unquantized checkpoint to run it layer by layer.

    Raises:
        SourceError: it is not there, or damaged.
    """
    return TorchLayers(open_weights(folder), dtype)


def open_gptq(folder: Path, threads: int) -> GptqLayers:
    """Open a GPTQ artifact to run it layer by layer.

    Raises:
        ArtifactError: a file or tensor is missing or damaged.
    """
    torch.set_num_threads(threads)
    return GptqLayers(read(folder))
