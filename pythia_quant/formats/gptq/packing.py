"""Pack one linear layer into the tensors of GPTQ version 1, as auto-gptq defined them, and unpack them.

Numbers follow each other in a stream of 32-bit words; the first number is in the lowest bits of the first word. Some
numbers of 3 bits begin in one word and end in the next. The tensors hold each zero point less 1, and readers add the 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pythia_quant.quantizers.grid import Quantized

PARTS = ("qweight", "qzeros", "scales", "g_idx")
"""The suffixes of the stored tensors' names."""


def pack(quantized: Quantized) -> dict[str, Tensor]:
    """Pack a weight, [out, in]; return its tensors by the suffix of their name.

    Returns:
        ``qweight`` int32 [in * bits / 32, out], ``qzeros`` int32 [groups, out * bits / 32], ``scales`` fp16
        [groups, out], ``g_idx`` int32 [in].
    """
    bits = quantized.bits
    return {
        "qweight": to_words(quantized.codes.T, bits),
        "qzeros": to_words(quantized.zeros - 1, bits).T.contiguous(),
        "scales": quantized.scales.T.contiguous(),
        "g_idx": quantized.groups,
    }


def unpack(parts: dict[str, Tensor], bits: int) -> Quantized:
    """Return the weight that :func:`pack` has packed into tensors of `bits` bits."""
    return Quantized(
        bits=bits,
        codes=from_words(parts["qweight"], bits).T.contiguous(),
        scales=parts["scales"].T.contiguous(),
        zeros=from_words(parts["qzeros"].T, bits) + 1,
        groups=parts["g_idx"],
    )


def packed_layout(shape: tuple[int, ...], bits: int, group_size: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return the shape and the dtype of each tensor of a weight of `shape`, [out, in]."""
    out, width = shape
    groups = width // group_size
    return {
        "qweight": ((width * bits // 32, out), torch.int32),
        "qzeros": ((groups, out * bits // 32), torch.int32),
        "scales": ((groups, out), torch.float16),
        "g_idx": ((width,), torch.int32),
    }


def to_words(numbers: Tensor, bits: int) -> Tensor:
    """Pack uint8 [n, columns] along n into int32 [n * bits / 32, columns]."""
    period, words_each = _period(bits)
    runs = numbers.reshape(-1, period, numbers.shape[1])
    words = torch.zeros(len(runs), words_each, numbers.shape[1], dtype=torch.int32)
    for i in range(period):
        word, shift = divmod(i * bits, 32)
        number = runs[:, i].int()
        words[:, word] |= number << shift
        if shift + bits > 32:
            words[:, word + 1] |= number >> (32 - shift)
    return words.flatten(0, 1)


def from_words(words: Tensor, bits: int) -> Tensor:
    """Unpack int32 [words, columns] into uint8 [words * 32 / bits, columns]."""
    period, words_each = _period(bits)
    runs = words.reshape(-1, words_each, words.shape[1])
    numbers = torch.empty(len(runs), period, words.shape[1], dtype=torch.uint8)
    for i in range(period):
        word, shift = divmod(i * bits, 32)
        number = runs[:, word] >> shift
        if shift + bits > 32:
            # The shift of a negative word fills its upper bits with ones, which the bits of the next word must replace.
            number = number & (2 ** (32 - shift) - 1) | runs[:, word + 1] << (32 - shift)
        numbers[:, i] = number & (2**bits - 1)
    return numbers.flatten(0, 1)


def _period(bits: int) -> tuple[int, int]:
    """Return after how many numbers, and after how many words, a number begins at the first bit of a word again."""
    length = math.lcm(32, bits)
    return length // bits, length // 32
