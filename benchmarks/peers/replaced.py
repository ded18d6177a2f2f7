"""A checkpoint whose linear layers are replaced by those of a quantizer."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pythia_quant.model.architecture import LINEARS
from pythia_quant.model.weights import WeightReader
from pythia_quant.quantizers import grid

LinearWeights = Callable[[str], Tensor]
"""Gives the weight, fp32 [out, in], of a linear layer by its name, such as ``gpt_neox.layers.0.attention.dense``."""


class Replaced:
    """Reads the source's tensors, except the weights of the linear layers.

    Args:
        source: the checkpoint.
        linears: gives those weights.
    """

    def __init__(self, source: WeightReader, linears: LinearWeights) -> None:
        self.architecture = source.architecture
        self._source, self._linears = source, linears

    def read(self, name: str) -> Tensor:
        layer = name.removesuffix(".weight")
        if layer != name and layer.endswith(LINEARS):
            return self._linears(layer)
        return self._source.read(name)


def nearest(source: WeightReader, bits: int, group_size: int) -> Replaced:
    """Round the linear layers of a checkpoint to the nearest values of symmetric grids of neighbouring inputs."""

    def rounded(layer: str) -> Tensor:
        grouped = source.read(f"{layer}.weight").float().unflatten(1, (-1, group_size))
        values = grid.fit(grouped, bits, dim=-1, symmetric=True)
        return values.decode(values.encode(grouped)).flatten(1)

    return Replaced(source, rounded)
