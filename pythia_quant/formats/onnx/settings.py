"""Settings of the ONNX format."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from pythia_quant.settings import VariantSettings, divides


class OnnxSettings(VariantSettings):
    """Weights in fp32, or in symmetric int8 blocks along the input; activations in fp32, or int8 per block."""

    format: Literal["onnx"]
    weights: Literal["fp32", "int8"] = "int8"
    block_size: Literal[16, 32, 64, 128] = 32
    activations: Literal["fp32", "int8"] = "int8"
    embeddings: Literal["fp32", "int8"] = "int8"
    head: Literal["fp32", "int8"] = "int8"

    @model_validator(mode="after")
    def _unquantized_weights_take_fp32_activations(self) -> OnnxSettings:
        if self.weights == "fp32" and self.head == "fp32" and self.activations == "int8":
            raise PydanticCustomError(
                "conflict", "activations: int8 needs int8 weights or head; with fp32 weights say activations: fp32"
            )
        return self

    def stored_bits(self) -> tuple[float, float]:
        bits = {"fp32": 32.0, "int8": 8 + 32 / self.block_size}
        return bits[self.weights], (bits[self.embeddings] + bits[self.head]) / 2

    def fits(self, width: int, mlp_width: int) -> tuple[str, str] | None:
        return divides("block_size", self.block_size, width, mlp_width, (16, 32, 64, 128))
