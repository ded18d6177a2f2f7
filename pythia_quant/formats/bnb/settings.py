"""Settings of the bitsandbytes format."""

from __future__ import annotations

from typing import Literal

from pythia_quant.settings import VariantSettings


class BnbSettings(VariantSettings):
    """4-bit blocks of 64 weights, quantized by bitsandbytes (arXiv 2305.14314).

    The block size is not an option: bitsandbytes' loader in transformers has none.
    """

    format: Literal["bnb"]
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True
    compute_dtype: Literal["float16", "bfloat16", "float32"] = "bfloat16"
    embeddings: Literal["fp16"] = "fp16"
    head: Literal["fp16"] = "fp16"
