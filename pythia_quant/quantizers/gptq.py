"""GPTQ (arXiv 2210.17323): quantize column by column, and let the columns still to come make up for each error.

For inputs x and weights T that are wanted, what matters is tr((T - Q) H (T - Q)ᵀ) with H = Σ x xᵀ. Once a column is
rounded, the best the others can do is a linear update, read off a triangular factor of H⁻¹.

T need not be the original weights W. When the inputs come from a model whose earlier layers are quantized, the outputs
of the original layer on the original inputs are what is wanted, and T is their least-squares fit, W + (Σ e xᵀ) H⁻¹, e
being the errors that the outputs have with W. GPTAQ (arXiv 2504.02692) has the same aim and updates column by column.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.core.precision import exact_products
from pythia_quant.quantizers import refine
from pythia_quant.quantizers.grid import Grid, Quantized, bounds, consecutive_groups, fit

BLOCK_SIZE = 128
"""Columns updated one by one before the rest is, in one matrix product: the paper's choice (3.3, step 2)."""

ActivationOrder = Literal["none", "static", "dynamic"]


@dataclass(frozen=True)
class Options:
    """How to quantize.

    Attributes:
        bits: of a code.
        group_size: inputs that share a scale; 0 for all.
        symmetric: whether the middle code stands for 0.
        activation_order: none takes the inputs as they come; the others take first those with the largest second
            moment. Groups are neighbours in the original order with static, and in that one with dynamic.
        scale_search: fit grids to the squared error weighted by the inputs' second moments, not to the range.
        sweeps: how often scales are fitted and codes moved afterwards, see :mod:`pythia_quant.quantizers.refine`.
        damping: added to the Hessian's diagonal, relative to its mean; raised tenfold where that is not enough.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = True
    activation_order: ActivationOrder = "none"
    scale_search: bool = False
    sweeps: int = 0
    damping: float = 0.01


@dataclass(frozen=True)
class Solution:
    """A quantized weight and what is known about it.

    Attributes:
        quantized: the codes and scales.
        error: squared error of each output, fp32 [out]: the sum over the tokens seen of its distance from what is
            wanted, as far as weights can do anything about it.
        rounding_error: the same for the original weights rounded to nearest, with the same bits and groups.
        outputs: the outputs themselves squared and summed, from the original weights, fp32 [out].
        damping: what was added to the Hessian's diagonal, relative to the diagonal's mean.
    """

    quantized: Quantized
    error: Tensor
    rounding_error: Tensor
    outputs: Tensor
    damping: float


@exact_products()
def quantize(
    weight: Tensor,
    hessian: Tensor,
    options: Options,
    cross: Tensor | None = None,
    parts: tuple[int, ...] = (),
    block_size: int = BLOCK_SIZE,
) -> Solution:
    """Quantize a weight.

    Inputs that were always 0 are rounded to nearest: the data says nothing about their weights.

    Args:
        weight: fp32 [out, in].
        hessian: fp32 [in, in], of the inputs.
        options: how.
        cross: fp32 [out, in], Σ e xᵀ for the errors e that the outputs have with `weight`; None for no errors.
        parts: inputs of each of several matrices side by side, which share no group; none for one.
        block_size: columns between updates of all the rest; changes the speed only.

    Raises:
        QuantizationError: the group size does not divide the inputs, a scale exceeds fp16, or no damping helps.
    """
    parts = parts or (weight.shape[1],)
    groups = _groups(parts, options.group_size).to(weight.device)
    if options.activation_order != "dynamic":
        return _solve(weight, hessian, options, cross, groups, block_size)
    order = _most_important_first(hessian, parts)
    cross = None if cross is None else cross[:, order]
    return _put_back(_solve(weight[:, order], hessian[order][:, order], options, cross, groups, block_size), order)


def _solve(
    weight: Tensor, hessian: Tensor, options: Options, cross: Tensor | None, groups: Tensor, block_size: int
) -> Solution:
    """Quantize a weight whose groups are neighbours, see :func:`quantize`."""
    static = options.activation_order == "static"
    order = _most_important_first(hessian, (len(hessian),)) if static else torch.arange(len(hessian))
    factor, damping = _inverse_factor(hessian, order, options.damping)

    target = weight
    if cross is not None:  # times the inverse of the damped Hessian
        target = weight + (cross[:, order] @ factor.T @ factor)[:, order.argsort()]
    target = target.T.contiguous()  # one input a row, as all below
    importance = hessian.diagonal()[:, None] if options.scale_search else None
    fitting = _Fitting(options, groups, importance)
    values, grid = _column_by_column(target, factor, order, fitting, block_size)
    del factor
    if options.sweeps:
        damped = _damped(hessian, damping)
        for _ in range(options.sweeps):
            grid = _with_fitted_scales(target, damped, values, grid, groups)
            refine.move_codes(target, damped, values, grid)

    first = [start for start, _ in fitting.bounds]
    quantized = Quantized(
        bits=options.bits,
        codes=torch.round(values / grid.scale + grid.zero).byte().T.contiguous(),
        scales=grid.scale[first].T.contiguous().half(),
        zeros=grid.zero[first].T.contiguous().byte(),
        groups=groups,
    )
    original = weight.T.contiguous()
    rounded = _Fitting(options, groups, None).all(original).round(original)
    return Solution(
        quantized,
        error=_squared(values - target, hessian),
        rounding_error=_squared(rounded - target, hessian),
        outputs=_squared(original, hessian),
        damping=damping,
    )


class _Fitting:
    """Fits the grids of groups of neighbouring inputs.

    Attributes:
        options: of the grids.
        bounds: first input of each group, and the one after its last.
    """

    def __init__(self, options: Options, groups: Tensor, importance: Tensor | None) -> None:
        self.options, self._importance = options, importance
        self.bounds = bounds(groups)

    def empty(self, like: Tensor) -> Grid:
        """Return a grid to be filled, its scale and zero [in, out]."""
        return Grid(self.options.bits, torch.empty_like(like), torch.empty_like(like))

    def fit(self, values: Tensor, start: int, stop: int, into: Grid) -> None:
        """Fit the group of inputs start … stop to `values`, [stop - start, out]."""
        importance = None if self._importance is None else self._importance[start:stop]
        found = fit(values, self.options.bits, 0, symmetric=self.options.symmetric, importance=importance)
        into.scale[start:stop], into.zero[start:stop] = found.scale, found.zero

    def all(self, values: Tensor) -> Grid:
        """Fit every group to `values`, [in, out]."""
        grid = self.empty(values)
        for start, stop in self.bounds:
            self.fit(values[start:stop], start, stop, grid)
        return grid


def _column_by_column(
    target: Tensor, factor: Tensor, order: Tensor, fitting: _Fitting, block_size: int
) -> tuple[Tensor, Grid]:
    """Round each input's weights in order, updating those to come.

    In the layout's own order a group's grid is fitted when the group is reached, to the weights as updated until then:
    those are what will be rounded. In any other, groups are reached piecemeal, and grids are fitted beforehand.

    Returns:
        The rounded weights, fp32 [in, out], and the grid of each input, its scale and zero [in, out].
    """
    beforehand = fitting.options.activation_order == "static"
    grids = fitting.all(target) if beforehand else fitting.empty(target)
    due = {} if beforehand else dict(fitting.bounds)
    columns = target[order]
    rounded = torch.empty_like(target)
    places = order.tolist()
    for start, stop in _blocks([(0, len(target))] if beforehand else fitting.bounds, block_size):
        errors = torch.empty(stop - start, target.shape[1], device=target.device)
        for i in range(start, stop):
            if i in due:
                fitting.fit(columns[i : due[i]], i, due[i], grids)
            place = places[i]
            rounded[place] = Grid(grids.bits, grids.scale[place], grids.zero[place]).round(columns[i])
            error = torch.sub(columns[i], rounded[place], out=errors[i - start]).div_(factor[i, i])
            columns[i + 1 : stop].addr_(factor[i, i + 1 : stop], error, alpha=-1)
        columns[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return rounded, grids


def _blocks(bounds: list[tuple[int, int]], block_size: int) -> list[tuple[int, int]]:
    """Cut the inputs into blocks. A group that begins within one ends within it: then it has every update it is due."""
    starts = [0]
    for start, stop in bounds:
        if stop - starts[-1] > block_size and start > starts[-1]:
            starts.append(start)
        starts += range(starts[-1] + block_size, stop, block_size)
    return list(zip(starts, [*starts[1:], bounds[-1][1]], strict=True))


def _with_fitted_scales(target: Tensor, hessian: Tensor, values: Tensor, grid: Grid, groups: Tensor) -> Grid:
    """Fit the scales to the codes; `values` become those of the same codes."""
    steps = torch.round(values / grid.scale)
    scale = refine.fit_scales(target, hessian, steps, grid.scale, groups)
    torch.mul(steps, scale, out=values)
    return Grid(grid.bits, scale, grid.zero)


def _groups(parts: tuple[int, ...], group_size: int) -> Tensor:
    """Return the group of each input, int32 [in]; 0 makes one of each part."""
    found: list[Tensor] = []
    first = 0
    for width in parts:
        found.append(consecutive_groups(width, group_size or width) + first)
        first = int(found[-1][-1]) + 1
    return torch.cat(found)


def _most_important_first(hessian: Tensor, parts: tuple[int, ...]) -> Tensor:
    """Return the order of the inputs, in each part the largest second moment first, int64 [in]."""
    found: list[Tensor] = []
    for diagonal in hessian.diagonal().split(parts):
        found.append(torch.argsort(diagonal, descending=True, stable=True) + sum(map(len, found)))
    return torch.cat(found)


def _put_back(solution: Solution, order: Tensor) -> Solution:
    """Return the solution of permuted inputs with the inputs in their own order."""
    found, back = solution.quantized, order.argsort()
    return replace(
        solution, quantized=replace(found, codes=found.codes[:, back].contiguous(), groups=found.groups[back])
    )


def _squared(weight: Tensor, hessian: Tensor) -> Tensor:
    """Return each output squared and summed over the tokens seen, for a weight [in, out]."""
    return (hessian @ weight).mul_(weight).sum(0)


def _damped(hessian: Tensor, damping: float) -> Tensor:
    """Return the Hessian with the damping times its mean diagonal added; inputs that were always 0 get the mean too."""
    diagonal = hessian.diagonal()
    seen = diagonal > 0
    mean = diagonal[seen].mean() if seen.any() else torch.ones((), device=hessian.device)
    damped = hessian.clone()
    damped.diagonal().add_(torch.where(seen, damping * mean, (1 + damping) * mean))
    return damped


def _inverse_factor(hessian: Tensor, order: Tensor, damping: float) -> tuple[Tensor, float]:
    """Return the upper triangular U with UᵀU = (damped Hessian)⁻¹, inputs in that order, and the damping it took.

    With the order reversed, Cholesky's lower factor L becomes V in H = V Vᵀ, V upper triangular, and U = V⁻¹ is L⁻¹
    reversed again. That is one factorization where the reference implementation inverts H and factors the inverse.
    """
    backwards = order.flip(0)
    tried = damping
    while tried <= 1:
        lower, failed = torch.linalg.cholesky_ex(_damped(hessian, tried)[backwards][:, backwards])
        if not failed:
            inverse = torch.eye(len(hessian), device=hessian.device)
            torch.linalg.solve_triangular(lower, inverse, upper=False, out=inverse)
            del lower  # of a 12b model, each of these matrices takes 2.6 GB
            return inverse.flip(0, 1), tried
        tried *= 10
    raise QuantizationError(
        f"the inputs' Hessian is not positive definite, with damping from {damping:g} to {tried / 10:g}",
        hint="calibrate with more text, or start with a larger damping",
    )
