"""Integer grids: the real numbers that a group's codes stand for. Nothing here is packed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pythia_quant.core.errors import QuantizationError

_SMALLEST_SCALE = 2.0**-24  # of fp16: keeps a group of zeros from dividing by zero, and it comes back as zeros

_LARGEST_SCALE = 65504.0

_SHARES = tuple(share / 20 for share in range(9, 23))  # of the full range, 0.45 to 1.1: 2 bits want 0.5, 8 bits 1


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
        return self._codes(values).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values that codes stand for, fp32."""
        return self.scale * (codes.float() - self.zero)

    def round(self, values: Tensor) -> Tensor:
        """Return the nearest grid values, fp32 in the shape of `values`."""
        return self._codes(values).sub_(self.zero).mul_(self.scale)

    def _codes(self, values: Tensor) -> Tensor:
        return torch.div(values, self.scale).add_(self.zero).round_().clamp_(0, 2**self.bits - 1)


def fit(values: Tensor, bits: int, dim: int, *, symmetric: bool = True, importance: Tensor | None = None) -> Grid:
    """Fit one grid to each group of values. The scale is rounded to fp16 here: codes are chosen for what is stored.

    A symmetric grid has 0 in its middle, and the largest magnitude half a step beyond the top code: scale
    2·max|w| / (2**bits - 1), as in the reference implementation of GPTQ (IST-DASLab/gptq, ``quant.py``). Any other
    reaches from the smallest value to the largest, its zero among the codes 1 … 2**bits - 1: readers of the GPTQ format
    add 1 to stored zeros in ways that do not agree about 0.

    Args:
        values: fp32; a group extends along `dim`.
        bits: of a code.
        dim: reduced to size 1 in the grid's scale and zero.
        symmetric: whether 0 is the middle code.
        importance: weighs each value's squared error, broadcasting against `values`. With it narrower grids, which clip
            the largest values, and wider ones are tried, and the one with the least error is taken.

    Raises:
        QuantizationError: a scale exceeds fp16's range.
    """
    top = 2**bits - 1
    if symmetric:
        high = values.abs().amax(dim, keepdim=True)
        low = -high
    else:
        high = values.amax(dim, keepdim=True).clamp_min_(0)
        low = torch.minimum(values.amin(dim, keepdim=True), -high / (top - 1))  # leaves room for a zero of 1

    def grid(share: float) -> Grid:
        scale = _storable((high - low) * (share / top))
        # The middle of the codes stands for the middle of the range, however much of it they reach.
        middle = torch.round(top / 2 - (high + low) / 2 / scale).clamp_(1, top)
        return Grid(bits, scale, torch.full_like(scale, 2 ** (bits - 1)) if symmetric else middle)

    if importance is None:
        return grid(1.0)
    best = grid(1.0)
    least = _error(best, values, importance, dim)
    for share in _SHARES:
        candidate = grid(share)
        error = _error(candidate, values, importance, dim)
        better = error < least
        least = torch.where(better, error, least)
        best = Grid(
            bits, torch.where(better, candidate.scale, best.scale), torch.where(better, candidate.zero, best.zero)
        )
    return best


def _error(grid: Grid, values: Tensor, importance: Tensor, dim: int) -> Tensor:
    return grid.round(values).sub_(values).square_().mul_(importance).sum(dim, keepdim=True)


def _storable(scale: Tensor) -> Tensor:
    """Round scales to fp16, not below its smallest number.

    Raises:
        QuantizationError: a scale exceeds fp16's range.
    """
    if not (scale <= _LARGEST_SCALE).all():
        raise QuantizationError(
            f"a group of weights needs the scale {float(scale.max()):.4g}, which fp16 cannot hold",
            hint="the checkpoint looks damaged; use another revision",
        )
    return scale.clamp_min(_SMALLEST_SCALE).half().float()


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
        """Return the weights that the codes stand for, fp32 [out, in]; exact, fp16 x 8 bits fits fp32."""
        grid = Grid(self.bits, self.scales.float()[:, self.groups], self.zeros.float()[:, self.groups])
        return grid.decode(self.codes)

    def cpu(self) -> Quantized:
        """Return it in main memory."""
        return Quantized(self.bits, self.codes.cpu(), self.scales.cpu(), self.zeros.cpu(), self.groups.cpu())

    def rows(self, rows: slice) -> Quantized:
        """Return some rows of the matrix."""
        return Quantized(self.bits, self.codes[rows], self.scales[rows], self.zeros[rows], self.groups)

    def columns(self, columns: slice) -> Quantized:
        """Return some columns, being all the inputs of some groups, as a matrix of their own."""
        groups = self.groups[columns]
        first = int(groups.min())
        part = slice(first, int(groups.max()) + 1)
        return Quantized(self.bits, self.codes[:, columns], self.scales[:, part], self.zeros[:, part], groups - first)


def consecutive_groups(width: int, group_size: int) -> Tensor:
    """Return the group of each input when groups are neighbours, int32 [width].

    Raises:
        QuantizationError: `group_size` does not divide `width`.
    """
    if width % group_size:
        raise QuantizationError(f"the group size {group_size} does not divide the width {width}")
    return torch.arange(width, dtype=torch.int32) // group_size


def bounds(groups: Tensor) -> list[tuple[int, int]]:
    """Return the first input of each group of neighbours, and the one after its last; `groups` is int32 [in]."""
    ends = torch.unique_consecutive(groups, return_counts=True)[1].cumsum(0).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def round_to_nearest(weight: Tensor, bits: int, group_size: int, *, symmetric: bool = True) -> Quantized:
    """Quantize a weight, fp32 [out, in], on a grid per row and `group_size` neighbouring inputs.

    Raises:
        QuantizationError: the group size does not divide the inputs, or a scale exceeds fp16.
    """
    groups = consecutive_groups(weight.shape[1], group_size)
    grouped = weight.unflatten(1, (-1, group_size))
    grid = fit(grouped, bits, dim=-1, symmetric=symmetric)
    return Quantized(
        bits=bits,
        codes=grid.encode(grouped).flatten(1),
        scales=grid.scale.squeeze(-1).half(),
        zeros=grid.zero.squeeze(-1).byte(),
        groups=groups,
    )
