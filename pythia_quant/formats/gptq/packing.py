"""The tensors of GPTQ version 1 for one linear layer, as auto-gptq defined them and every reader expects them.

A 32-bit word holds 32/bits numbers, the first in its lowest bits. Zero points are stored less 1, so that the code for 0
may be 1 … 2**bits; readers add the 1 after unpacking.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pythia_quant.quantizers.grid import Quantized

PARTS = ("qweight", "qzeros", "scales", "g_idx")
"""The suffixes of the stored tensors' names."""


def pack(quantized: Quantized) -> dict[str, Tensor]:
    """Return the stored tensors by the suffix of their name.

    Returns:
        ``qweight`` int32 [in * bits / 32, out], ``qzeros`` int32 [groups, out * bits / 32], ``scales`` fp16
        [groups, out], ``g_idx`` int32 [in].
    """
    bits = quantized.bits
    return {
        "qweight": _to_words(quantized.codes.T, bits),
        "qzeros": _to_words(quantized.zeros - 1, bits).T.contiguous(),
        "scales": quantized.scales.T.contiguous(),
        "g_idx": quantized.groups,
    }


def unpack(parts: dict[str, Tensor], bits: int) -> Quantized:
    """Return what :func:`pack` was given."""
    return Quantized(
        bits=bits,
        codes=_from_words(parts["qweight"], bits).T.contiguous(),
        scales=parts["scales"].T.contiguous(),
        zeros=_from_words(parts["qzeros"].T, bits) + 1,
        groups=parts["g_idx"],
    )


def packed_layout(shape: tuple[int, ...], bits: int, group_size: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and dtype of each stored tensor of a weight, `shape` being [out, in]."""
    out, width = shape
    groups = width // group_size
    return {
        "qweight": ((width * bits // 32, out), torch.int32),
        "qzeros": ((groups, out * bits // 32), torch.int32),
        "scales": ((groups, out), torch.float16),
        "g_idx": ((width,), torch.int32),
    }


def _to_words(numbers: Tensor, bits: int) -> Tensor:
    """Pack uint8 [n, columns] along n into int32 [n * bits / 32, columns]."""
    per_word = 32 // bits
    words = torch.zeros(len(numbers) // per_word, numbers.shape[1], dtype=torch.int32)
    for i in range(per_word):
        words |= numbers[i::per_word].int() << (bits * i)
    return words


def _from_words(words: Tensor, bits: int) -> Tensor:
    """Unpack int32 [words, columns] into uint8 [words * 32 / bits, columns]."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    numbers: Tensor = (words[:, None] >> shifts[:, None]) & (2**bits - 1)
    return numbers.to(torch.uint8).flatten(0, 1)
