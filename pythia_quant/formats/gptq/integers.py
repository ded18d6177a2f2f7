"""What reads integers in groups of inputs, for the runtime of this format."""

from __future__ import annotations

from typing import Protocol

from pythia_quant.formats.foreign_checkpoint import ForeignTensors
from pythia_quant.model.weights import WeightReader
from pythia_quant.quantizers.grid import Quantized


class GptqReader(WeightReader, Protocol):
    """Reads integers in groups of inputs: of GPTQ or compressed-tensors, ours or another maker's."""

    def quantized(self, name: str) -> Quantized:
        """Return the integers of a linear layer's weight by its name in a checkpoint."""
        ...

    def is_quantized(self, name: str) -> bool:
        """Return whether a tensor is stored as integers, by its name in a checkpoint."""
        ...


class ForeignIntegers(GptqReader, Protocol):
    """Reads those of another maker.

    Attributes:
        tensors: the stored tensors.
    """

    tensors: ForeignTensors

    def describe(self) -> str:
        """Return how the weights are stored, for people."""
        ...
