"""Integer grids: the real numbers that a group's codes stand for. Nothing here is packed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pythia_quant.errors import QuantizationError

_SMALLEST_SCALE = 2.0**-24  # of fp16: keeps a group of zeros from dividing by zero, and it comes back as zeros
_LARGEST_SCALE = 65504.0


@dataclass(frozen=True)
class Grid:
    """Evenly spaced values ``scale * (code - zero)`` for the codes 0 … 2**bits - 1.

    Attributes:
        bits: of a code.
        scale: fp32, holding values that fp16 can; broadcasts against what is encoded.
        zero: fp32 integers in the shape of `scale`: the code that stands for 0.
    """

    bits: int
    scale: Tensor
    zero: Tensor

    def encode(self, values: Tensor) -> Tensor:
        """Return the codes of the nearest grid values, uint8 in the shape of `values`."""
        return torch.round(values / self.scale + self.zero).clamp_(0, 2**self.bits - 1).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values that codes stand for, fp32."""
        return self.scale * (codes.float() - self.zero)


def fit_symmetric(values: Tensor, bits: int, dim: int) -> Grid:
    """Fit one grid to each group of values, 0 in its middle, the largest magnitude half a step beyond the top code.

    This is the symmetric grid of the reference implementation of GPTQ (IST-DASLab/gptq, ``quant.py``): scale
    2·max|w| / (2**bits - 1). The scale is rounded to fp16 here, so that codes are chosen for the scale that is stored.

    Args:
        values: fp32; a group extends along `dim`.
        bits: of a code.
        dim: reduced to size 1 in the grid's scale and zero.

    Raises:
        QuantizationError: a scale exceeds fp16's range.
    """
    scale = (2 * values.abs().amax(dim, keepdim=True) / (2**bits - 1)).clamp_min_(_SMALLEST_SCALE)
    if not (scale <= _LARGEST_SCALE).all():
        raise QuantizationError(
            f"a weight of {float(values.abs().max()):.4g} needs a scale that fp16 cannot hold",
            hint="the checkpoint looks damaged; use another revision",
        )
    scale = scale.half().float()
    return Grid(bits, scale, torch.full_like(scale, 2 ** (bits - 1)))


@dataclass(frozen=True)
class Quantized:
    """A weight matrix as integers.

    Attributes:
        bits: of a code.
        codes: uint8 [out, in].
        scales: fp16 [out, groups].
        zeros: uint8 [out, groups], the code that stands for 0.
        groups: int32 [in], the group that each input belongs to.
    """

    bits: int
    codes: Tensor
    scales: Tensor
    zeros: Tensor
    groups: Tensor

    def dequantize(self) -> Tensor:
        """Return the weights that the codes stand for, fp32 [out, in]; exact, fp16 x 4 bits fits fp32."""
        grid = Grid(self.bits, self.scales.float()[:, self.groups], self.zeros.float()[:, self.groups])
        return grid.decode(self.codes)


def consecutive_groups(width: int, group_size: int) -> Tensor:
    """Return the group of each input when groups are neighbours, int32 [width].

    Raises:
        QuantizationError: `group_size` does not divide `width`.
    """
    if width % group_size:
        raise QuantizationError(f"the group size {group_size} does not divide the width {width}")
    return torch.arange(width, dtype=torch.int32) // group_size
