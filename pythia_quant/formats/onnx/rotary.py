"""The order of query, key and value channels that ONNX Runtime's attention operator expects, and its rotary tables.

The operator takes all queries, then all keys, then all values; a checkpoint has the query, key and value of each head
in turn. For rotation, the operator pairs channel i of a head with channel i + n, and n must be a multiple of 8. In
Pythia n is 4 for heads of 32 channels and 10 for heads of 80. Queries and keys may have their channels in any order if
both have the same, so channels that do not rotate fill each half of the pairs up to n; their angle is 0.

A head must have a multiple of 16 channels, and room for all pairs. Other heads, such as a head of 8, or one of 88 that
rotates as a whole, are widened by zeros when the model runs. Zeros add nothing to the product of query and key, and the
zeros of values are removed from the result. Cached keys and values are as wide as the widened head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pythia_quant.model.architecture import Architecture
from pythia_quant.model.forward import rotary_angles


def rotary_tables(architecture: Architecture) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of each position, fp32 [context, n]."""
    angles = rotary_angles(architecture, architecture.context)
    missing = rotated_pairs(architecture) - angles.shape[1]
    angles = torch.cat((angles, torch.zeros(len(angles), missing)), dim=1)
    return angles.cos(), angles.sin()


def kept_head_size(architecture: Architecture) -> int:
    """Return the number of channels of a widened head, which is also that of its cached keys and values."""
    return max(-(-architecture.head_size // 16) * 16, 2 * rotated_pairs(architecture))


def channels_of_head(architecture: Architecture) -> list[int]:
    """Return, for each place in a widened head, the number of the channel that stands there.

    Channels are numbered from 0 in the order of :func:`separate`. The number after the last channel, which is the size
    of the head, stands for a zero.
    """
    size, pairs = architecture.head_size, architecture.rotary_size // 2
    before = min(rotated_pairs(architecture), size - pairs)  # the second half of the pairs
    first = [*range(before), *[size] * (rotated_pairs(architecture) - before), *range(before, size)]
    return first + [size] * (kept_head_size(architecture) - len(first))


def separate(mixed: Tensor, architecture: Architecture) -> Tensor:
    """Bring the rows of a checkpoint's query_key_value, [3 * width, ...], into the operator's order."""
    return mixed.index_select(0, _order(architecture))


def interleave(separated: Tensor, architecture: Architecture) -> Tensor:
    """Undo :func:`separate`."""
    return separated.index_select(0, _order(architecture).argsort())


def rotated_pairs(architecture: Architecture) -> int:
    """Return the number of pairs of channels that the operator rotates in a head, some of them by an angle of 0."""
    return -(-architecture.rotary_size // 16) * 8


def _order(architecture: Architecture) -> Tensor:
    """Return the checkpoint's row for each row in the operator's order, int64 [3 * width]."""
    size, heads, turned = architecture.head_size, architecture.heads, architecture.rotary_size // 2
    missing = rotated_pairs(architecture) - turned
    still = torch.arange(2 * turned, size)
    turning = torch.cat((torch.arange(turned), still[:missing], torch.arange(turned, 2 * turned), still[missing:]))
    places = torch.arange(3 * heads * size).view(heads, 3, size)
    return torch.cat((places[:, 0, turning].flatten(), places[:, 1, turning].flatten(), places[:, 2].flatten()))
