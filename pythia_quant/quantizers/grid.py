"""Integer grids: the real numbers that codes stand for. Codes are not packed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pythia_quant.core.errors import QuantizationError

_SMALLEST_SCALE = 2.0**-24  # the smallest number of fp16, so that a group of zeros does not divide by zero

_LARGEST_SCALE = 65504.0

# The shares of the full range that a search tries, 0.45 to 1.1: 0.5 is good for 2 bits, 1 for 8 bits.
_SHARES = tuple(share / 20 for share in range(9, 23))


@dataclass(frozen=True)
class Grid:
    """The values ``scale * (code - zero) + minimum`` for the codes 0 … 2**bits - 1.

    Attributes:
        bits: the bits of a code.
        scale: fp32 with values that fp16 can represent; its shape broadcasts against the values to encode.
        zero: the code that stands for 0, or for the minimum, as fp32 in the shape of `scale`.
        minimum: fp32 in the shape of `scale`; None if it is 0.
    """

    bits: int
    scale: Tensor
    zero: Tensor
    minimum: Tensor | None = None

    def at(self, rows: int | slice | list[int]) -> Grid:
        """Return the grid of one index, or of some, of the first dimension."""
        minimum = None if self.minimum is None else self.minimum[rows]
        return Grid(self.bits, self.scale[rows], self.zero[rows], minimum)

    def encode(self, values: Tensor) -> Tensor:
        """Return the codes of the nearest grid values, uint8 in the shape of `values`."""
        return self._codes(values).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values that codes stand for, fp32."""
        values = self.scale * (codes.float() - self.zero)
        return values if self.minimum is None else values.add_(self.minimum)

    def round(self, values: Tensor) -> Tensor:
        """Return the nearest grid values, fp32 in the shape of `values`."""
        rounded = self._codes(values).sub_(self.zero).mul_(self.scale)
        return rounded if self.minimum is None else rounded.add_(self.minimum)

    def _codes(self, values: Tensor) -> Tensor:
        if self.minimum is not None:
            values = values - self.minimum
        return torch.div(values, self.scale).add_(self.zero).round_().clamp_(0, 2**self.bits - 1)


def fit(values: Tensor, bits: int, dim: int, *, symmetric: bool = True, importance: Tensor | None = None) -> Grid:
    """Fit one grid to each group of values. Scales are rounded to fp16, so that codes suit the scales that are stored.

    In a symmetric grid the middle code stands for 0, and the largest magnitude lies half a step beyond the last code:
    the scale is 2·max|w| / (2**bits - 1), as in the reference implementation of GPTQ (IST-DASLab/gptq, ``quant.py``).
    Any other grid reaches from the smallest value to the largest, and its zero is one of the codes 1 … 2**bits - 1:
    readers of the GPTQ format add 1 to stored zeros, and do not agree on what happens to a zero of 0.

    Args:
        values: fp32; a group extends along `dim`.
        bits: the bits of a code.
        dim: the dimension that has size 1 in the grid's scale and zero.
        symmetric: whether the middle code stands for 0.
        importance: the weight of each value's squared error; its shape broadcasts against `values`. If it is given,
            narrower grids, which clip the largest values, and wider ones are tried, and the best one is returned.

    Raises:
        QuantizationError: a scale exceeds fp16's range.
    """
    top = 2**bits - 1
    if symmetric:
        high = values.abs().amax(dim, keepdim=True)
        low = -high
    else:
        high = values.amax(dim, keepdim=True).clamp_min_(0)
        low = torch.minimum(values.amin(dim, keepdim=True), -high / (top - 1))  # so low that zero is at least 1

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
    """Round scales to fp16, but not below fp16's smallest number.

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
        bits: the bits of a code.
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
        """Return the weights that the codes stand for, fp32 [out, in]; fp32 holds them exactly."""
        grid = Grid(self.bits, self.scales.float()[:, self.groups], self.zeros.float()[:, self.groups])
        return grid.decode(self.codes)

    def cpu(self) -> Quantized:
        """Return the matrix in main memory."""
        return Quantized(self.bits, self.codes.cpu(), self.scales.cpu(), self.zeros.cpu(), self.groups.cpu())

    def rows(self, rows: slice) -> Quantized:
        """Return some rows of the matrix."""
        return Quantized(self.bits, self.codes[rows], self.scales[rows], self.zeros[rows], self.groups)

    def columns(self, columns: slice) -> Quantized:
        """Return some columns as a matrix; they must be all the inputs of some groups."""
        groups = self.groups[columns]
        first = int(groups.min())
        part = slice(first, int(groups.max()) + 1)
        return Quantized(self.bits, self.codes[:, columns], self.scales[:, part], self.zeros[:, part], groups - first)


def side_by_side(parts: Sequence[Quantized]) -> Quantized:
    """Return matrices of the same outputs and bits as one matrix, the inputs of the first one first."""
    groups: list[Tensor] = []
    first = 0
    for part in parts:
        groups.append(part.groups + first)
        first += part.scales.shape[1]
    return Quantized(
        parts[0].bits,
        torch.cat([part.codes for part in parts], 1),
        torch.cat([part.scales for part in parts], 1),
        torch.cat([part.zeros for part in parts], 1),
        torch.cat(groups),
    )


def consecutive_groups(width: int, group_size: int) -> Tensor:
    """Return the number of each input's group, int32 [width]; groups consist of neighbouring inputs.

    Raises:
        QuantizationError: `group_size` does not divide `width`.
    """
    if width % group_size:
        raise QuantizationError(f"the group size {group_size} does not divide the width {width}")
    return torch.arange(width, dtype=torch.int32) // group_size


def bounds(groups: Tensor) -> list[tuple[int, int]]:
    """Return the first input of each group and the one after its last; `groups` is int32 [in], of neighbours."""
    ends = torch.unique_consecutive(groups, return_counts=True)[1].cumsum(0).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))
