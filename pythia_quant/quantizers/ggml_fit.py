"""Fit the scales and minimums of ggml's blocks to weights: those that leave the least squared error.

Weights are [inputs, outputs] here, so that a block extends along the first dimension. Each search tries some scales,
rounds to codes, and fits the scale to the codes by least squares; what fp16 and small integers can hold is judged by
the error that it leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.quantizers.ggml_bytes import TYPES, BlockType
from pythia_quant.quantizers.ggml_grid import BlockGrid, choose

_SMALLEST = 2.0**-24  # the smallest number of fp16, so that a block of zeros does not divide by zero
_LARGEST = 65504.0
_FINEST = 2.0**-16  # of the minimum: with a finer scale, fp32 could not tell codes apart

# The shares of the full range that a search tries.
_SHARES = {
    4: (0.7, 0.76, 0.82, 0.86, 0.9, 0.93, 0.96, 1.0, 1.04),
    5: (0.82, 0.87, 0.91, 0.94, 0.97, 1.0, 1.02),
    6: (0.9, 0.93, 0.95, 0.97, 0.985, 1.0, 1.01),
    8: (1.004,),  # seven more would leave 2 % less squared error, for twice the time
}
_ROUNDS = 3  # of fitting scales to codes and codes to scales
_LARGEST_SCALE = 63  # of a group, in the types with minimums; in q6_k scales are -128..127


def fit(name: str, weight: Tensor, importance: Tensor | None = None) -> BlockGrid:
    """Fit a grid to each block.

    Args:
        name: the type.
        weight: fp32 [inputs, outputs]; the inputs are those of whole blocks.
        importance: the weight of each input's squared error, fp32 [inputs, 1]; None if all count alike.

    Raises:
        QuantizationError: weights are not finite, or a scale exceeds fp16.
    """
    kind = TYPES[name]
    values = weight.view(-1, kind.group, weight.shape[1])
    groups = _Groups(kind, values, None if importance is None else _relative(importance, kind.group))
    if not all(each.isfinite().all() for each in groups.range):
        raise QuantizationError("values to quantize are not finite")
    if kind.group == kind.block:
        return _fit_blocks(groups)
    return _fit_super_blocks(groups)


def _relative(importance: Tensor, group: int) -> Tensor:
    """Return the weight of each input's error, [groups, inputs of a group, 1], about 1 in the mean of a group.

    No input counts nothing: the calibration text is only a sample.
    """
    grouped = importance.view(-1, group, 1)
    mean = grouped.mean(1, keepdim=True)
    return torch.where(mean > 0, grouped / mean.clamp_min(1e-30), 1.0) + 1e-3


@dataclass(frozen=True)
class _Sums:
    """Sums over a group that a least-squares fit needs, each [groups, outputs], weighted: of codes and of values.

    Types without minimums need only those of squares and products; the others are 0 then.
    """

    squares: Tensor
    products: Tensor
    ones: Tensor
    codes: Tensor
    values: Tensor

    def slope(self) -> Tensor:
        """Return the best scale without a minimum."""
        return self.products / self.squares.clamp_min(1e-30)

    def line(self) -> tuple[Tensor, Tensor]:
        """Return the best scale and minimum; the scale is 0 if all codes are the same."""
        squares = self.ones * self.squares
        spread = squares - self.codes.square()
        several = spread > 1e-5 * squares
        scale = (self.ones * self.products - self.codes * self.values) / torch.where(several, spread, 1.0)
        scale = torch.where(several, scale, 0.0)
        return scale, (self.values - scale * self.codes) / self.ones


@dataclass(frozen=True)
class _Groups:
    """The weights of some groups, [groups, weights of a group, outputs], and how much the error of each counts.

    Most of the time of a search is spent on temporaries of this size, so they share two pieces of memory.
    """

    kind: BlockType
    values: Tensor
    importance: Tensor | None

    @cached_property
    def range(self) -> tuple[Tensor, Tensor]:
        """The largest and the smallest weight of each group, [groups, outputs]."""
        return self.values.amax(1), self.values.amin(1)

    @cached_property
    def _memory(self) -> tuple[Tensor, Tensor]:
        return torch.empty_like(self.values), torch.empty_like(self.values)

    @cached_property
    def _weighted(self) -> Tensor:
        return self.values if self.importance is None else self.values * self.importance

    @cached_property
    def _constant(self) -> tuple[Tensor, Tensor]:
        """The sums that no codes change: of ones and of values."""
        values = self._weighted.sum(1)
        count = torch.full((1, 1), self.kind.group) if self.importance is None else self.importance.sum(1)
        return count.to(values).expand_as(values), values

    def sums(self, scale: Tensor, minimum: Tensor | None) -> _Sums:
        """Return the sums for the nearest codes minus the zero, for a scale and minimum [groups, outputs]."""
        return self._sums(self._codes(scale, minimum))

    def look(self, grid: BlockGrid) -> tuple[Tensor, _Sums]:
        """Return the weighted squared error of each block, [blocks, outputs], and the sums for the nearest codes."""
        codes = self._codes(grid.step, grid.lowest)
        sums = self._sums(codes)
        rounded = codes.mul_(grid.step[:, None])
        if grid.lowest is not None:
            rounded.add_(grid.lowest[:, None])
        error = rounded.sub_(self.values).square_()
        if self.importance is not None:
            error.mul_(self.importance)
        total = error.sum(1)
        return total.view(len(grid.scale), -1, total.shape[1]).sum(1), sums

    def _codes(self, scale: Tensor, minimum: Tensor | None) -> Tensor:
        """Return the codes, in the first piece of memory."""
        zero, codes = self.kind.zero or 0, self._memory[0]
        shifted = self.values if minimum is None else torch.sub(self.values, minimum[:, None], out=codes)
        return torch.div(shifted, scale[:, None], out=codes).round_().clamp_(-zero, 2**self.kind.bits - 1 - zero)

    def _sums(self, codes: Tensor) -> _Sums:
        other = self._memory[1]
        products = torch.mul(codes, self._weighted, out=other).sum(1)
        weighted = codes if self.importance is None else torch.mul(codes, self.importance, out=other)
        of_codes = weighted.sum(1) if self.kind.zero is None else torch.zeros_like(products)
        squares = torch.mul(weighted, codes, out=other).sum(1)
        ones, values = self._constant if self.kind.zero is None else (of_codes, of_codes)
        return _Sums(squares, products, ones, of_codes, values)

    def free(self) -> tuple[Tensor, Tensor | None]:
        """Return the scale, and minimum if the type has one, that leave the least error if any number may be stored."""
        high, low = self.range
        top = 2**self.kind.bits - 1
        least = torch.full_like(high, torch.inf)
        best_scale, best_minimum = torch.ones_like(high), torch.zeros_like(high)
        for share in _SHARES[self.kind.bits]:
            if self.kind.zero is None:
                width = _not_zero((high - low) * (share / top))
                found = self._line(width, (high + low) / 2 - width * (top / 2))
            else:
                # The largest magnitude falls on the side that has one code more.
                scale = _not_zero(torch.where(high > -low, high, low) * (-share / self.kind.zero))
                found = self._slope(scale)
            scale, minimum, error = found
            better = error < least
            least = torch.where(better, error, least)
            best_scale = torch.where(better, scale, best_scale)
            best_minimum = torch.where(better, minimum, best_minimum)
        return best_scale, best_minimum if self.kind.zero is None else None

    def _slope(self, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sums = self.sums(scale, None)
        fitted = sums.slope()
        return fitted, fitted, -fitted * sums.products  # the error but for the squares of the values

    def _line(self, scale: Tensor, minimum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sums = self.sums(scale, minimum)
        scale, minimum = sums.line()
        if self.kind.group < self.kind.block:  # what is stored is subtracted, and not negative
            scale = torch.where(minimum > 0, sums.slope(), scale)
            minimum = minimum.clamp_max(0)
        return scale, minimum, -(scale * sums.products + minimum * sums.values)


def _fit_blocks(groups: _Groups) -> BlockGrid:
    """Fit the types whose blocks are one group."""
    kind, (high, low) = groups.kind, groups.range
    if kind.zero is None:
        best = _storable(kind, (high - low) / (2**kind.bits - 1), low)
    else:
        best = _storable(kind, torch.where(high > -low, high, low) / -kind.zero, None)
    least, _ = groups.look(best)
    scale, minimum = groups.free()
    for _ in range(_ROUNDS):
        grid = _storable(kind, scale, minimum)
        error, sums = groups.look(grid)
        best, least = _better(error, grid, best, least)
        scale, minimum = (sums.slope(), None) if minimum is None else sums.line()
    return best


def _storable(kind: BlockType, scale: Tensor, minimum: Tensor | None) -> BlockGrid:
    if minimum is None:
        return BlockGrid(kind, _half(_not_zero(scale)))
    minimum = _half(minimum)
    return BlockGrid(kind, _half(_not_zero(scale, minimum.abs() * _FINEST)), minimum)


def _fit_super_blocks(groups: _Groups) -> BlockGrid:
    """Fit the types whose blocks have groups: free numbers for groups first, then the integers that come nearest."""
    kind = groups.kind
    scale, minimum = groups.free()
    if minimum is None:
        best = grid = _with_integers(kind, scale, None, _largest(kind, scale) / -128, None)
    else:
        unit = _half(_largest(kind, -minimum) / _LARGEST_SCALE)
        finest = unit * (_LARGEST_SCALE * _FINEST)
        best = grid = _with_integers(kind, scale, minimum, _largest(kind, scale) / _LARGEST_SCALE, unit, finest)
    least, sums = groups.look(best)
    for _ in range(_ROUNDS):
        grid = _fit_units(kind, sums, _fit_integers(kind, sums, grid))
        error, sums = groups.look(grid)
        best, least = _better(error, grid, best, least)
    return best


def _largest(kind: BlockType, numbers: Tensor) -> Tensor:
    """Return in each block the number of the largest magnitude, [blocks, outputs]."""
    in_blocks = numbers.view(-1, kind.block // kind.group, numbers.shape[1])
    high, low = in_blocks.amax(1), in_blocks.amin(1)
    return torch.where(high > -low, high, low)


def _with_integers(
    kind: BlockType,
    scale: Tensor,
    minimum: Tensor | None,
    unit: Tensor,
    minimum_unit: Tensor | None,
    finest: Tensor | None = None,
) -> BlockGrid:
    """Return the grid with the integers that come nearest to scales and minimums [groups, outputs]."""
    unit = _half(_not_zero(unit, finest))
    scales = _integers(kind, scale, unit)
    if minimum is None or minimum_unit is None:
        return BlockGrid(kind, unit, scales=scales)
    return BlockGrid(kind, unit, minimum_unit, scales, _minimums(kind, minimum, minimum_unit))


def _integers(kind: BlockType, scale: Tensor, unit: Tensor) -> Tensor:
    """Return the scales of groups as integers, none of them 0: with the least one no code needs to change."""
    ratio = torch.round(scale / unit.repeat_interleave(kind.block // kind.group, 0))
    if kind.zero is None:
        return ratio.clamp_(1, _LARGEST_SCALE)
    return torch.where(ratio == 0, 1.0, ratio).clamp_(-128, 127)


def _minimums(kind: BlockType, minimum: Tensor, unit: Tensor) -> Tensor:
    expanded = unit.repeat_interleave(kind.block // kind.group, 0)
    ratio = torch.where(expanded == 0, 0.0, minimum / torch.where(expanded == 0, 1.0, expanded))
    return torch.round(-ratio).clamp_(0, _LARGEST_SCALE)


def _fit_integers(kind: BlockType, sums: _Sums, grid: BlockGrid) -> BlockGrid:
    """Return the grid with integers fitted to codes, each group's minimum for the scale that it then has."""
    if grid.minimum is None:
        return BlockGrid(kind, grid.scale, scales=_integers(kind, sums.slope(), grid.scale))
    scale, minimum = sums.line()
    scale = torch.where(minimum > 0, sums.slope(), scale)
    fitted = BlockGrid(kind, grid.scale, grid.minimum, _integers(kind, scale, grid.scale), grid.minimums)
    minimum = (sums.values - fitted.step * sums.codes) / sums.ones
    return BlockGrid(kind, fitted.scale, fitted.minimum, fitted.scales, _minimums(kind, minimum, grid.minimum))


def _fit_units(kind: BlockType, sums: _Sums, grid: BlockGrid) -> BlockGrid:
    """Return the grid with the two numbers of each block fitted to codes and integers."""

    def total(numbers: Tensor) -> Tensor:
        return numbers.view(len(grid.scale), -1, numbers.shape[1]).sum(1)

    scales = torch.zeros(()) if grid.scales is None else grid.scales
    squares, products = total(scales.square() * sums.squares), total(scales * sums.products)
    if grid.minimum is None or grid.minimums is None:
        return BlockGrid(kind, _half(_not_zero(products / squares.clamp_min(1e-30))), scales=scales)
    minimums = grid.minimums
    mixed, ones = -total(scales * minimums * sums.codes), total(minimums.square() * sums.ones)
    values = -total(minimums * sums.values)
    spread = squares * ones - mixed.square()
    regular = spread > 1e-6 * squares * ones
    safe = torch.where(regular, spread, 1.0)
    scale = torch.where(regular, (ones * products - mixed * values) / safe, grid.scale)
    minimum = torch.where(regular, (squares * values - mixed * products) / safe, grid.minimum).clamp_min(0)
    minimum = _half(minimum)
    scale = torch.where(scale > 0, scale, grid.scale)
    return BlockGrid(kind, _half(_not_zero(scale, minimum * (_LARGEST_SCALE * _FINEST))), minimum, scales, minimums)


def _better(error: Tensor, grid: BlockGrid, best: BlockGrid, least: Tensor) -> tuple[BlockGrid, Tensor]:
    """Return in each block the grid that leaves the lower error, and that error."""
    better = error < least
    return choose(better, grid, best), torch.where(better, error, least)


def _not_zero(scale: Tensor, finest: Tensor | None = None) -> Tensor:
    """Return scales whose magnitude is not below fp16's smallest number, or another limit if that is larger."""
    magnitude = scale.abs().clamp_min(_SMALLEST)
    return torch.copysign(magnitude if finest is None else torch.maximum(magnitude, finest), scale)


def _half(numbers: Tensor) -> Tensor:
    """Round numbers to fp16.

    Raises:
        QuantizationError: one exceeds fp16's range.
    """
    if not (numbers.abs() <= _LARGEST).all():
        raise QuantizationError(
            f"a block of weights needs the scale {float(numbers.abs().max()):.4g}, which fp16 cannot hold",
            hint="the checkpoint looks damaged; use another revision",
        )
    return numbers.half().float()
