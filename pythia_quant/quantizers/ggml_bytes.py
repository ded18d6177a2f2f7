"""The types of ggml, the library below llama.cpp: what a block holds, and its bytes.

Names, sizes and numbers are those of the GGUF specification (ggml-org/ggml, ``docs/gguf.md``) and of ``ggml-common.h``;
the tests compare them and every value with the ``gguf`` package.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class BlockType(NamedTuple):
    """A type of ggml. A block consists of neighbouring inputs of one output.

    Attributes:
        block: the weights of a block.
        size: the bytes of a block.
        code: ggml's number of the type.
        bits: the bits of a code; of a floating-point type, those of a weight.
        group: the weights that share a scale; as many as `block`, or fewer in a block whose scales are integers times
            one number of fp16.
        zero: the code that stands for 0; None if each group has a minimum, for which code 0 stands.
    """

    block: int
    size: int
    code: int
    bits: int
    group: int
    zero: int | None


TYPES = {
    "f32": BlockType(1, 4, 0, 32, 1, 0),
    "f16": BlockType(1, 2, 1, 16, 1, 0),
    "bf16": BlockType(1, 2, 30, 16, 1, 0),
    "q4_0": BlockType(32, 18, 2, 4, 32, 8),
    "q4_1": BlockType(32, 20, 3, 4, 32, None),
    "q5_0": BlockType(32, 22, 6, 5, 32, 16),
    "q5_1": BlockType(32, 24, 7, 5, 32, None),
    "q8_0": BlockType(32, 34, 8, 8, 32, 128),
    "q4_k": BlockType(256, 144, 12, 4, 32, None),
    "q5_k": BlockType(256, 176, 13, 5, 32, None),
    "q6_k": BlockType(256, 210, 14, 6, 16, 32),
}

FLOATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Fields(NamedTuple):
    """What the bytes of some blocks say.

    A weight is ``scale * code + minimum``, or ``scale * (code - zero)`` in types with a zero. In types with groups the
    first is ``(scale * scales) * code - minimum * minimums`` with the integers of the weight's group. ggml computes in
    fp32, in this order.

    Attributes:
        codes: uint8 [blocks, weights of a block].
        scale: fp16 [blocks].
        minimum: fp16 [blocks]; None in types with a zero.
        scales: uint8 [blocks, groups], 0..63, or for q6_k int8; None in types whose blocks are one group.
        minimums: uint8 [blocks, groups], 0..63; None in types that have no scales or no minimum.
    """

    codes: Tensor
    scale: Tensor
    minimum: Tensor | None = None
    scales: Tensor | None = None
    minimums: Tensor | None = None


def values(kind: BlockType, fields: Fields) -> Tensor:
    """Return the weights, fp32 [blocks, weights of a block], computed as ggml computes them."""
    scale = fields.scale.float()[:, None]
    if fields.scales is not None:
        scale = scale * fields.scales.float()
    codes = fields.codes.view(*scale.shape, -1).float()
    if fields.minimum is None:
        return (codes.sub_(kind.zero or 0).mul_(scale[:, :, None])).flatten(1)
    minimum = fields.minimum.float()[:, None]
    if fields.minimums is not None:
        minimum = -(minimum * fields.minimums.float())
    return codes.mul_(scale[:, :, None]).add_(minimum[:, :, None]).flatten(1)


def pack(name: str, fields: Fields) -> Tensor:
    """Return the bytes of blocks, uint8 [blocks, bytes of a block]."""
    codes = fields.codes
    numbers = [_bytes(fields.scale)] + ([] if fields.minimum is None else [_bytes(fields.minimum)])
    match name:
        case "q8_0":
            parts = [*numbers, codes ^ 128]
        case "q4_0" | "q4_1":
            parts = [*numbers, _join_low(codes, 16)]
        case "q5_0" | "q5_1":
            parts = [*numbers, _join_bits(codes >> 4, 1, 8, 1), _join_low(codes, 16)]
        case "q4_k":
            parts = [*numbers, _join_scales(fields), _join_low(codes, 32)]
        case "q5_k":
            parts = [*numbers, _join_scales(fields), _join_bits(codes >> 4, 1, 8, 32), _join_low(codes, 32)]
        case "q6_k" if fields.scales is not None:
            scales = fields.scales.view(torch.uint8)
            parts = [_join_low(codes, 64), _join_bits(codes >> 4, 2, 4, 32), scales, *numbers]
        case _:
            raise ValueError(name)
    return torch.cat(parts, 1)


def unpack(name: str, data: Tensor) -> Fields:  # noqa: PLR0911 - a type each
    """Undo :func:`pack`."""
    match name:
        case "q8_0":
            return Fields(data[:, 2:] ^ 128, _number(data, 0))
        case "q4_0":
            return Fields(_split_low(data[:, 2:], 16), _number(data, 0))
        case "q4_1":
            return Fields(_split_low(data[:, 4:], 16), _number(data, 0), _number(data, 2))
        case "q5_0":
            high = _split_bits(data[:, 2:6], 1, 8, 1)
            return Fields(_split_low(data[:, 6:], 16) | high << 4, _number(data, 0))
        case "q5_1":
            high = _split_bits(data[:, 4:8], 1, 8, 1)
            return Fields(_split_low(data[:, 8:], 16) | high << 4, _number(data, 0), _number(data, 2))
        case "q4_k":
            codes = _split_low(data[:, 16:], 32)
            return Fields(codes, _number(data, 0), _number(data, 2), *_split_scales(data[:, 4:16]))
        case "q5_k":
            codes = _split_low(data[:, 48:], 32) | _split_bits(data[:, 16:48], 1, 8, 32) << 4
            return Fields(codes, _number(data, 0), _number(data, 2), *_split_scales(data[:, 4:16]))
        case "q6_k":
            codes = _split_low(data[:, :128], 64) | _split_bits(data[:, 128:192], 2, 4, 32) << 4
            return Fields(codes, _number(data, 208), scales=data[:, 192:208].view(torch.int8))
    raise ValueError(name)


def _bytes(numbers: Tensor) -> Tensor:
    return numbers.contiguous()[:, None].view(torch.uint8)


def _number(data: Tensor, start: int) -> Tensor:
    return data[:, start : start + 2].contiguous().view(torch.float16)[:, 0]


def _join_low(codes: Tensor, width: int) -> Tensor:
    """Put the low four bits of `width` codes, and of the `width` codes after them, into the halves of bytes."""
    pairs = (codes & 15).view(len(codes), -1, 2, width)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).flatten(1)


def _split_low(data: Tensor, width: int) -> Tensor:
    pairs: Tensor = data.unflatten(1, (-1, width))
    return torch.stack((pairs & 15, pairs >> 4), 2).flatten(1)


def _join_bits(numbers: Tensor, bits: int, count: int, width: int) -> Tensor:
    """Put `count` numbers of so many bits, each `width` numbers after the one before, into a byte, the first lowest."""
    apart = numbers.view(len(numbers), -1, count, width) << _shifts(numbers, bits, count)
    return apart.sum(2, dtype=torch.uint8).flatten(1)


def _split_bits(data: Tensor, bits: int, count: int, width: int) -> Tensor:
    apart: Tensor = (data.unflatten(1, (-1, 1, width)) >> _shifts(data, bits, count)) & (2**bits - 1)
    return apart.flatten(1)


def _shifts(like: Tensor, bits: int, count: int) -> Tensor:
    return torch.arange(0, bits * count, bits, dtype=torch.uint8, device=like.device)[:, None]


def _join_scales(fields: Fields) -> Tensor:
    """Return the scales and minimums of eight groups, 6 bits each, in twelve bytes.

    The first eight bytes hold those of the first four groups, and above each the two high bits of a later group's.
    """
    if fields.scales is None or fields.minimums is None:
        raise ValueError("a block without scales")
    early, late = zip(fields.scales.split(4, 1), fields.minimums.split(4, 1), strict=True)
    high = [first | last >> 4 << 6 for first, last in zip(early, late, strict=True)]
    return torch.cat([*high, (late[0] & 15) | late[1] << 4], 1)


def _split_scales(data: Tensor) -> tuple[Tensor, Tensor]:
    scales, minimums, low = data.split(4, 1)
    return (
        torch.cat((scales & 63, (low & 15) | scales >> 6 << 4), 1),
        torch.cat((minimums & 63, low >> 4 | minimums >> 6 << 4), 1),
    )
