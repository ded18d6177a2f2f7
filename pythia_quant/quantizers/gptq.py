"""GPTQ (arXiv 2210.17323): round a weight column by column, and let later columns make up for the error of each.

For inputs x and target weights T, the error of the outputs is tr((T - Q) H (T - Q)ᵀ) with H = Σ x xᵀ. Once a column is
rounded, the best correction of the other columns is linear, and its factors stand in a triangular factor of H⁻¹.

T may differ from the original weights W. If the inputs come from a model whose earlier layers are quantized, the target
is the output of the original layer on the original inputs. T is then the least-squares fit W + (Σ e xᵀ) H⁻¹, where e is
the error that the outputs have with W. GPTAQ (arXiv 2504.02692) has the same aim, and updates column by column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.core.precision import exact_products
from pythia_quant.quantizers import refine
from pythia_quant.quantizers.damping import damped, inverse_factor
from pythia_quant.quantizers.grid import Quantized, side_by_side
from pythia_quant.quantizers.grid_kind import GridKind, IntegerKind, Levels, Stored
from pythia_quant.quantizers.ridge import fit
from pythia_quant.quantizers.sections import Section, SideBySide, cut

BLOCK_SIZE = 128
"""Within so many columns each one is updated at once; one matrix product then updates all later columns. The paper
has the same block size (section 3.3, step 2)."""

ActivationOrder = Literal["none", "static", "dynamic"]


@dataclass(frozen=True)
class Options:
    """How to quantize.

    Attributes:
        bits: the bits of a code.
        group_size: the number of inputs that share a scale; 0 if all inputs do.
        symmetric: whether the middle code stands for 0.
        activation_order: the order in which inputs are rounded. "none" is the original order; "static" and "dynamic"
            begin with the inputs of the largest second moment. A group consists of neighbours in the original order
            with "static", and of neighbours in the new order with "dynamic".
        scale_search: whether grids are fitted to the squared error, weighted by the inputs' second moments, instead of
            the range of the weights.
        sweeps: how often scales are fitted and codes moved afterwards, see :mod:`pythia_quant.quantizers.refine`.
        damping: what is added to the Hessian's diagonal, relative to the diagonal's mean; it is raised tenfold until
            the Hessian is positive definite.
        ridge: the same where the target is fitted; None if it is the damping.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = True
    activation_order: ActivationOrder = "none"
    scale_search: bool = False
    sweeps: int = 0
    damping: float = 0.01
    ridge: float | None = None

    @property
    def kind(self) -> GridKind:
        """The grids that these options say."""
        return IntegerKind(self.bits, self.group_size, self.symmetric)


@dataclass(frozen=True)
class Solution:
    """A quantized weight and its errors. A squared error is summed over the calibration tokens.

    Attributes:
        parts: each matrix as a file stores it.
        error: the squared error of each output against the outputs of the target weights, fp32 [out].
        rounding_error: the same error if the original weights are rounded to nearest, with the same bits and groups.
        outputs: the squared outputs of the original weights, summed over the same tokens, fp32 [out].
        damping: what was added to the Hessian's diagonal, relative to the diagonal's mean.
        ridge: the same where the target was fitted.
    """

    parts: tuple[Stored, ...]
    error: Tensor
    rounding_error: Tensor
    outputs: Tensor
    damping: float
    ridge: float

    @property
    def quantized(self) -> Quantized:
        """The codes and scales of all matrices, if all have the grids of the GPTQ format and the same bits."""
        parts = [part for part in self.parts if isinstance(part, Quantized)]
        if len(parts) < len(self.parts) or len({part.bits for part in parts}) > 1:
            raise TypeError("not all matrices have the grids of the GPTQ format and the same bits")
        return parts[0] if len(parts) == 1 else side_by_side(parts)

    def dequantize(self) -> Tensor:
        """Return the weights of all matrices side by side, fp32 [out, in]."""
        return torch.cat([part.dequantize() for part in self.parts], 1)


@exact_products()
def quantize(
    weight: Tensor,
    hessian: Tensor,
    options: Options,
    cross: Tensor | None = None,
    parts: tuple[int, ...] = (),
    block_size: int = BLOCK_SIZE,
    kinds: Sequence[GridKind] = (),
    outputs: Tensor | None = None,
) -> Solution:
    """Quantize a weight.

    Weights of inputs that were always 0 are rounded to nearest, because the data says nothing about them.

    Args:
        weight: fp32 [out, in].
        hessian: Σ x xᵀ of the inputs, fp32 [in, in].
        options: how to quantize.
        cross: Σ e xᵀ for the errors e that the outputs have with `weight`, fp32 [out, in]; None if there are no errors.
        parts: the number of inputs of each matrix, if `weight` consists of several matrices side by side; no group
            extends over two of them.
        block_size: the number of columns between updates of all later columns; it changes only the speed.
        kinds: the kind of grids of each matrix; those of the options if it is empty.
        outputs: what errors of the outputs cost together, fp32 [out, out], for the sweeps; None if all cost the same.

    Raises:
        QuantizationError: the group size does not divide the inputs, a scale exceeds fp16, no damping helps, or groups
            of an order that the kind of grids cannot say.
    """
    parts = parts or (weight.shape[1],)
    kinds = kinds or [options.kind] * len(parts)
    sections = cut(parts, kinds)
    if options.activation_order != "dynamic":
        return _solve(weight, hessian, options, cross, sections, block_size, outputs)
    if not all(kind.any_order for kind in kinds):
        raise QuantizationError(
            "groups of a dynamic activation order do not fit blocks of neighbours", hint="say activation_order: static"
        )
    order = _most_important_first(hessian, parts)
    cross = None if cross is None else cross[:, order]
    hessian = hessian[order][:, order]
    return _put_back(_solve(weight[:, order], hessian, options, cross, sections, block_size, outputs), order)


def _solve(
    weight: Tensor,
    hessian: Tensor,
    options: Options,
    cross: Tensor | None,
    sections: list[Section],
    block_size: int,
    outputs: Tensor | None,
) -> Solution:
    """Quantize a weight whose groups are neighbours, see :func:`quantize`."""
    static = options.activation_order == "static"
    order = _most_important_first(hessian, (len(hessian),)) if static else torch.arange(len(hessian))
    factor, damping = inverse_factor(hessian, order, options.damping)

    target = weight
    ridge = options.ridge or damping
    if cross is not None:
        moved = None if ridge == damping else fit(hessian, cross, ridge)
        if moved is None:  # the factor spares another factorization, or that has failed
            ridge, moved = damping, (cross[:, order] @ factor.T @ factor)[:, order.argsort()]
        target = weight + moved
    target = target.T.contiguous()  # one input a row, as all below
    importance = hessian.diagonal()[:, None] if options.scale_search else None
    if static:
        levels = SideBySide(sections, [section.fit(target, importance) for section in sections])
        values = _column_by_column(target, factor, order, levels, block_size)
    else:
        values, levels = _group_by_group(target, factor, sections, importance, block_size)
    del factor
    if options.sweeps:
        with_damping = damped(hessian, damping)
        for _ in range(options.sweeps):
            levels = levels.refit(target, with_damping, values)
            refine.move_codes(target, with_damping, values, levels, outputs)

    original = weight.T.contiguous()
    rounded = torch.cat([section.fit(original, None).round(original[section.inputs]) for section in sections])
    each = zip(sections, levels.levels, strict=True)
    return Solution(
        tuple(part for section, those in each for part in section.stored(those, values)),
        error=_squared(values - target, hessian),
        rounding_error=_squared(rounded - target, hessian),
        outputs=_squared(original, hessian),
        damping=damping,
        ridge=ridge,
    )


def _column_by_column(target: Tensor, factor: Tensor, order: Tensor, levels: SideBySide, block_size: int) -> Tensor:
    """Round the weights of one input after the other, and update the weights of later inputs.

    The inputs of a group are not neighbours in the order, so all grids were fitted beforehand.

    Returns:
        The rounded weights, fp32 [in, out].
    """
    columns = target[order]
    rounded = torch.empty_like(target)
    places = order.tolist()
    for start, stop in _blocks([(0, len(target))], block_size):
        errors = torch.empty(stop - start, target.shape[1], device=target.device)
        for i in range(start, stop):
            rounded[places[i]] = levels.at(places[i]).round(columns[i])
            _update_block(columns, rounded[places[i]], factor, i, stop, errors[i - start])
        columns[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return rounded


def _group_by_group(
    target: Tensor, factor: Tensor, sections: list[Section], importance: Tensor | None, block_size: int
) -> tuple[Tensor, SideBySide]:
    """Do the same in the original order, where a group's grid is fitted when its first input is reached.

    So it is fitted to the updated weights that will be rounded.

    Returns:
        The rounded weights, fp32 [in, out], and the levels.
    """
    columns = target.clone()
    rounded = torch.empty_like(target)
    fitted: list[list[Levels]] = [[] for _ in sections]
    due = {start: (number, stop) for number, section in enumerate(sections) for start, stop in section.bounds}
    first = 0
    for start, stop in _blocks([bounds for section in sections for bounds in section.bounds], block_size):
        errors = torch.empty(stop - start, target.shape[1], device=target.device)
        for i in range(start, stop):
            if i in due:
                (number, end), first = due[i], i
                given = None if importance is None else importance[i:end]
                group = sections[number].kind.fit(columns[i:end], given)
                fitted[number].append(group)
            rounded[i] = group.at(i - first).round(columns[i])
            _update_block(columns, rounded[i], factor, i, stop, errors[i - start])
        columns[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    levels = [section.kind.join(groups) for section, groups in zip(sections, fitted, strict=True)]
    return rounded, SideBySide(sections, levels)


def _update_block(columns: Tensor, rounded: Tensor, factor: Tensor, i: int, stop: int, error: Tensor) -> None:
    """Write the error of a rounded input, and update the weights of the inputs after it up to `stop`."""
    torch.sub(columns[i], rounded, out=error).div_(factor[i, i])
    columns[i + 1 : stop].addr_(factor[i, i + 1 : stop], error, alpha=-1)


def _blocks(bounds: list[tuple[int, int]], block_size: int) -> list[tuple[int, int]]:
    """Cut the inputs into blocks. A group that begins in a block ends in it; a group longer than a block begins one.

    So the weights that a grid is fitted to have all updates by earlier inputs.
    """
    starts = [0]
    for start, stop in bounds:
        if stop - starts[-1] > block_size and start > starts[-1]:
            starts.append(start)
        starts += range(starts[-1] + block_size, stop, block_size)
    return list(zip(starts, [*starts[1:], bounds[-1][1]], strict=True))


def _most_important_first(hessian: Tensor, parts: tuple[int, ...]) -> Tensor:
    """Return the inputs of each part in the order of their second moments, the largest first, int64 [in]."""
    orders: list[Tensor] = []
    for diagonal in hessian.diagonal().split(parts):
        orders.append(torch.argsort(diagonal, descending=True, stable=True) + sum(map(len, orders)))
    return torch.cat(orders)


def _put_back(solution: Solution, order: Tensor) -> Solution:
    """Return a solution of inputs in another order with the inputs in the original order."""
    back, first = order.argsort(), 0
    parts: list[Stored] = []
    for part in solution.parts:
        if isinstance(part, Quantized):
            stop = first + len(part.groups)
            inside = back[first:stop] - first
            part = replace(part, codes=part.codes[:, inside].contiguous(), groups=part.groups[inside])  # noqa: PLW2901
            first = stop
        parts.append(part)
    return replace(solution, parts=tuple(parts))


def _squared(weight: Tensor, hessian: Tensor) -> Tensor:
    """Return the square of each output, summed over the calibration tokens, for a weight [in, out]."""
    return (hessian @ weight).mul_(weight).sum(0)
