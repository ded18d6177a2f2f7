"""Pack one linear layer into the tensors of compressed-tensors' ``pack-quantized``, and unpack them.

A row of codes is a stream of 32-bit words, first number lowest, as in GPTQ's layout, but stored [out, words]. Codes are
unsigned: the library stores the signed number plus half of the range, which for symmetric weights is the code itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pythia_quant.formats.gptq.packing import from_words, to_words
from pythia_quant.quantizers.grid import Quantized

PARTS = ("weight_packed", "weight_scale", "weight_shape")
"""The suffixes of the stored tensors' names."""


def pack(quantized: Quantized) -> dict[str, Tensor]:
    """Pack a symmetric weight, [out, in], whose groups are neighbouring inputs; return its tensors by their suffix.

    Returns:
        ``weight_packed`` int32 [out, in * bits / 32], ``weight_scale`` fp16 [out, groups], ``weight_shape`` int64 [2].
    """
    return {
        "weight_packed": to_words(quantized.codes.T, quantized.bits).T.contiguous(),
        "weight_scale": quantized.scales.contiguous(),
        "weight_shape": torch.tensor(quantized.codes.shape),
    }


def unpack(parts: dict[str, Tensor], bits: int) -> Quantized:
    """Return the weight that :func:`pack` has packed into tensors of `bits` bits."""
    codes = from_words(parts["weight_packed"].T, bits).T.contiguous()
    scales = parts["weight_scale"]
    size = codes.shape[1] // scales.shape[1]
    return Quantized(
        bits=bits,
        codes=codes,
        scales=scales,
        zeros=torch.full(scales.shape, 2 ** (bits - 1), dtype=torch.uint8),
        groups=torch.arange(codes.shape[1], dtype=torch.int32) // size,
    )


def packed_layout(shape: tuple[int, ...], bits: int, group_size: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return safetensors' name of the dtype, and the shape, of each tensor of a weight of `shape`, [out, in]."""
    out, width = shape
    return {
        "weight_packed": ("I32", (out, width * bits // 32)),
        "weight_scale": ("F16", (out, width // group_size)),
        "weight_shape": ("I64", (2,)),
    }
