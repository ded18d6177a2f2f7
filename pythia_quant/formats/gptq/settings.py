"""Settings of the GPTQ format."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pythia_quant.core.settings import Misfit, VariantSettings, divides
from pythia_quant.model.architecture import EMBEDDING, HEAD


class GptqSettings(VariantSettings):
    """Integer groups along the input, solved column by column against calibration inputs (arXiv 2210.17323)."""

    calibrates: ClassVar[bool] = True
    format: Literal["gptq"]
    bits: Literal[2, 3, 4, 8] = 4
    group_size: Literal[32, 64, 128, "row"] = 128
    symmetric: bool = True
    activation_order: Literal["none", "static", "dynamic"] = "static"
    scale_search: bool = True
    sweeps: int = Field(default=2, ge=0, le=100)
    correction: Literal["none", "bias", "full"] = "full"
    damping: float = Field(default=0.01, gt=0, lt=1)
    embeddings: Literal["fp16"] = "fp16"
    head: Literal["fp16", "quantized"] = "fp16"

    def stored_bits(self) -> tuple[float, float]:
        group = 128 if self.group_size == "row" else self.group_size  # a row is no shorter
        linear = self.bits + (16 + self.bits) / group
        return linear, 16 if self.head == "fp16" else (16 + linear) / 2

    def code_bits(self, name: str) -> int:
        quantized = name != EMBEDDING and (name != HEAD or self.head == "quantized")
        return self.bits if quantized else 16

    def fits(self, width: int, mlp_width: int, layers: int) -> Misfit | None:  # noqa: ARG002
        if self.group_size == "row":
            return divides(("group_size",), 32, width, mlp_width, (32,))  # a packed word must not hold two columns
        return divides(("group_size",), self.group_size, width, mlp_width, (32, 64, 128))

    def caveats(self) -> list[str]:
        found = []
        if self.bits == 8:
            found.append(
                "no CPU kernel takes 8 bits in groups: on a CPU weights are dequantized, in our runtime to fp32"
            )
        if self.head == "quantized":
            found.append("transformers does not read a quantized head, and puts a random one in its place: use ours")
        if self.group_size == "row" and self.bits == 4:
            found.append("gptqmodel's CPU kernel takes groups of 32, 64, 128 and 256; of a longer row only ours does")
        return found
