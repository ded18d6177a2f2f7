"""The settings of the compressed-tensors format, which stores the integers of a GPTQ variant."""

from __future__ import annotations

from typing import Literal

from pythia_quant.core.settings import Misfit, Name, VariantSettings, divides
from pythia_quant.model.architecture import EMBEDDING, HEAD


class CompressedSettings(VariantSettings):
    """Symmetric integers of the GPTQ variant that `codes` names; the recipe checks that both settings agree."""

    format: Literal["compressed-tensors"]
    codes: Name
    bits: Literal[4, 8] = 4
    group_size: Literal[32, 64, 128, "row"] = 128
    embeddings: Literal["fp16"] = "fp16"
    head: Literal["fp16"] = "fp16"

    def stored_bits(self) -> tuple[float, float]:
        group = 128 if self.group_size == "row" else self.group_size  # no row of a model is shorter than 128
        return self.bits + 16 / group, 16

    def code_bits(self, name: str) -> int:
        return 16 if name in (EMBEDDING, HEAD) else self.bits

    def takes_codes_of(self) -> str | None:
        return self.codes

    def fits(self, width: int, mlp_width: int, layers: int) -> Misfit | None:  # noqa: ARG002
        size = 32 if self.group_size == "row" else self.group_size
        return divides(("group_size",), size, width, mlp_width, (32, 64, 128))

    def caveats(self) -> list[str]:
        if self.bits == 4:
            return []
        return ["no CPU kernel takes 8 bits in groups: on a CPU weights are dequantized, in our runtime to fp32"]
