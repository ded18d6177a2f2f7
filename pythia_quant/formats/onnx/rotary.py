"""The order of query, key and value channels that ONNX Runtime's attention operator wants, and its rotary tables.

The operator takes all queries, all keys and all values, where a checkpoint has query, key and value of each head in
turn. Within a head it pairs channel i with channel i + n for rotation, and n must be a multiple of 8; in Pythia n is 4
for heads of 32 and 10 for heads of 80. Channels of queries and keys may stand in any order, as long as it is the same:
so as many channels that do not rotate as are missing go between, and are rotated by nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pythia_quant.architecture import Architecture
from pythia_quant.errors import SourceError
from pythia_quant.layerwise import rotary_angles


def rotary_tables(architecture: Architecture) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of each position, fp32 [context, n].

    Raises:
        SourceError: heads have too few channels for the operator.
    """
    size, room = architecture.rotary_size, 2 * _pairs(architecture)
    if room > architecture.head_size:
        raise SourceError(
            f"rotates {size} of {architecture.head_size} channels of a head; the ONNX format needs at least {room}",
            hint="no Pythia model is like this; use another format",
        )
    angles = rotary_angles(architecture, architecture.context)
    missing = _pairs(architecture) - angles.shape[1]
    angles = torch.cat((angles, torch.zeros(len(angles), missing)), dim=1)
    return angles.cos(), angles.sin()


def separate(mixed: Tensor, architecture: Architecture) -> Tensor:
    """Bring the rows of a checkpoint's query_key_value, [3 * width, ...], into the operator's order."""
    return mixed[_order(architecture)]


def interleave(separated: Tensor, architecture: Architecture) -> Tensor:
    """Undo :func:`separate`."""
    return separated[_order(architecture).argsort()]


def _pairs(architecture: Architecture) -> int:
    return -(-architecture.rotary_size // 16) * 8


def _order(architecture: Architecture) -> Tensor:
    """Return where each row of the operator's order stands in the checkpoint, int64 [3 * width]."""
    size, heads, pairs = architecture.head_size, architecture.heads, architecture.rotary_size // 2
    missing = _pairs(architecture) - pairs
    still = torch.arange(2 * pairs, size)
    turning = torch.cat((torch.arange(pairs), still[:missing], torch.arange(pairs, 2 * pairs), still[missing:]))
    places = torch.arange(3 * heads * size).view(heads, 3, size)
    return torch.cat((places[:, 0, turning].flatten(), places[:, 1, turning].flatten(), places[:, 2].flatten()))
