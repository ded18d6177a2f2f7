"""Settings of the bitsandbytes format."""

from __future__ import annotations

from typing import Literal

from pythia_quant.core.settings import VariantSettings
from pythia_quant.model.architecture import EMBEDDING, HEAD


class BnbSettings(VariantSettings):
    """4-bit blocks of 64 weights, quantized by bitsandbytes (arXiv 2305.14314).

    The block size is not an option: bitsandbytes' loader in transformers has none. What is not quantized is stored in
    `compute_dtype` too: transformers 5 loads parts of it in the dtype it is stored in, and refuses to mix.
    """

    format: Literal["bnb"]
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True
    compute_dtype: Literal["float16", "bfloat16", "float32"] = "bfloat16"
    embeddings: Literal["unquantized"] = "unquantized"
    head: Literal["unquantized"] = "unquantized"

    def stored_bits(self) -> tuple[float, float]:
        # One absmax per 64 weights: fp32, or a byte and its own fp32 absmax per 256 blocks.
        return 4 + (8 + 32 / 256 if self.double_quant else 32) / 64, 32 if self.compute_dtype == "float32" else 16

    def code_bits(self, name: str) -> int:
        unquantized = 32 if self.compute_dtype == "float32" else 16
        return unquantized if name in (EMBEDDING, HEAD) else 4
