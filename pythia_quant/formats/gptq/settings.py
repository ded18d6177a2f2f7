"""Settings of the GPTQ format."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pythia_quant.settings import Misfit, VariantSettings, divides


class GptqSettings(VariantSettings):
    """Integer groups along the input, solved column by column against calibration inputs (arXiv 2210.17323)."""

    format: Literal["gptq"]
    bits: Literal[4] = 4
    group_size: Literal[32, 64, 128] = 128
    symmetric: Literal[True] = True
    activation_order: Literal[False] = False
    damping: float = Field(default=0.01, gt=0, lt=1)
    embeddings: Literal["fp16"] = "fp16"
    head: Literal["fp16"] = "fp16"

    def stored_bits(self) -> tuple[float, float]:
        return self.bits + (16 + self.bits) / self.group_size, 16

    def fits(self, width: int, mlp_width: int, layers: int) -> Misfit | None:  # noqa: ARG002
        return divides(("group_size",), self.group_size, width, mlp_width, (32, 64, 128))
