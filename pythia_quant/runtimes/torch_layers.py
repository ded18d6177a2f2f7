"""Models in transformers' own layers, one layer in memory at a time: sources in any dtype, and GPTQ artifacts."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer

from pythia_quant.formats.gptq.reader import GptqWeights, read
from pythia_quant.model.architecture import HEAD, LINEARS, layer_name
from pythia_quant.runtimes.int4 import HalfHead, describe, kernel_group_size, linear_layer
from pythia_quant.runtimes.protocol import Stage
from pythia_quant.runtimes.transformers_layers import TorchLayers, layers_description


class GptqLayers(TorchLayers):
    """A GPTQ artifact, with the linear layers that :mod:`pythia_quant.runtimes.int4` runs whole models in."""

    def __init__(self, weights: GptqWeights) -> None:
        super().__init__(weights, torch.float32)
        self._weights = weights
        names = [f"{layer_name(0)}.{linear}.weight" for linear in LINEARS] * weights.architecture.layers
        names += [HEAD] if weights.is_quantized(HEAD) else []
        in_kernel = {name: kernel_group_size(weights.quantized(name)) is not None for name in set(names)}
        dequantized = sum(not in_kernel[name] for name in names)
        self.description = layers_description(describe(weights, dequantized))

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


def open_gptq(folder: Path, threads: int) -> GptqLayers:
    """Open a GPTQ artifact to run it layer by layer.

    Raises:
        ArtifactError: a file or tensor is missing or damaged.
    """
    torch.set_num_threads(threads)
    return GptqLayers(read(folder))
