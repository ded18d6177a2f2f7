"""Fit the scales and minimums of ggml's blocks to weights: those that leave the least squared error.

Weights are [inputs, outputs] here, so that a block extends along the first dimension. Each search tries some scales,
rounds to codes, and fits the scale to the codes by least squares; what fp16 and small integers can hold is judged by
the error that it leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    8: (0.955, 0.965, 0.975, 0.985, 0.99, 0.995, 1.0, 1.004),
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
    if not values.isfinite().all():
        raise QuantizationError("values to quantize are not finite")
    groups = _Groups(kind, values, _relative(importance, kind.group, values))
    if kind.group == kind.block:
        return _fit_blocks(groups)
    return _fit_super_blocks(groups)


def _relative(importance: Tensor | None, group: int, values: Tensor) -> Tensor:
    """Return the weight of each input's error, [groups, inputs of a group, 1], about 1 in the mean of a group.

    No input counts nothing: the calibration text is only a sample.
    """
    if importance is None:
        return torch.ones(1, 1, 1, device=values.device)
    grouped = importance.view(-1, group, 1)
    mean = grouped.mean(1, keepdim=True)
    return torch.where(mean > 0, grouped / mean.clamp_min(1e-30), 1.0) + 1e-3


@dataclass(frozen=True)
class _Sums:
    """Sums over a group that a least-squares fit needs, each [groups, outputs], weighted: of codes and of values."""

    ones: Tensor
    codes: Tensor
    squares: Tensor
    values: Tensor
    products: Tensor

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
    """The weights of some groups, [groups, weights of a group, outputs], and the weights of their errors."""

    kind: BlockType
    values: Tensor
    importance: Tensor

    def sums(self, codes: Tensor) -> _Sums:
        """Return the sums for codes; a type's zero must be subtracted."""
        weighted = codes * self.importance
        count = self.kind.group if len(self.importance) == 1 else self.importance.sum(1)
        return _Sums(
            torch.as_tensor(count, dtype=torch.float32, device=codes.device).expand(len(codes), codes.shape[2]),
            weighted.sum(1),
            (weighted * codes).sum(1),
            (self.values * self.importance).sum(1),
            weighted.mul_(self.values).sum(1),
        )

    def codes(self, scale: Tensor, minimum: Tensor | None) -> Tensor:
        """Return the nearest codes minus the zero, fp32, for a scale and minimum [groups, outputs]."""
        zero = self.kind.zero or 0
        shifted = self.values if minimum is None else self.values - minimum[:, None]
        return torch.div(shifted, scale[:, None]).round_().clamp_(-zero, 2**self.kind.bits - 1 - zero)

    def error(self, grid: BlockGrid) -> Tensor:
        """Return the weighted squared error of each block, [blocks, outputs]."""
        error = grid.whole().round(self.values).sub_(self.values).square_().mul_(self.importance).sum(1)
        return error.view(len(grid.scale), -1, error.shape[1]).sum(1)

    def free(self) -> tuple[Tensor, Tensor | None]:
        """Return the scale, and minimum if the type has one, that leave the least error if any number may be stored."""
        high, low = self.values.amax(1), self.values.amin(1)
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
        sums = self.sums(self.codes(scale, None))
        fitted = sums.slope()
        return fitted, fitted, -fitted * sums.products  # the error but for the squares of the values

    def _line(self, scale: Tensor, minimum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sums = self.sums(self.codes(scale, minimum))
        scale, minimum = sums.line()
        if self.kind.group < self.kind.block:  # what is stored is subtracted, and not negative
            scale = torch.where(minimum > 0, sums.slope(), scale)
            minimum = minimum.clamp_max(0)
        return scale, minimum, -(scale * sums.products + minimum * sums.values)


def _fit_blocks(groups: _Groups) -> BlockGrid:
    """Fit the types whose blocks are one group."""
    kind, values = groups.kind, groups.values
    high, low = values.amax(1), values.amin(1)
    if kind.zero is None:
        best = _storable(kind, (high - low) / (2**kind.bits - 1), low)
    else:
        best = _storable(kind, torch.where(high > -low, high, low) / -kind.zero, None)
    least = groups.error(best)
    scale, minimum = groups.free()
    for last in range(_ROUNDS):
        grid = _storable(kind, scale, minimum)
        best, least = _better(groups, grid, best, least)
        if last < _ROUNDS - 1:
            sums = groups.sums(groups.codes(grid.step, grid.lowest))
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
    least = groups.error(best)
    for _ in range(_ROUNDS):
        sums = groups.sums(groups.codes(grid.step, grid.lowest))
        grid = _fit_units(kind, sums, _fit_integers(kind, sums, grid))
        best, least = _better(groups, grid, best, least)
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


def _better(groups: _Groups, grid: BlockGrid, best: BlockGrid, least: Tensor) -> tuple[BlockGrid, Tensor]:
    """Return in each block the grid that leaves the lower error, and that error."""
    error = groups.error(grid)
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
