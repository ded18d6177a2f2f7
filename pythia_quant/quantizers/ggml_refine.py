"""Fit the scales and minimums of ggml's blocks to codes that GPTQ has chosen. The error of the outputs never rises.

The weights are linear in the scales and minimums of groups, so the error of an output is quadratic in them,
p G p - 2 r p, as in :func:`pythia_quant.quantizers.refine.fit_scales`. Where these are small integers times the
numbers of a block, each integer in turn is set to the best one while all others stay; then the numbers are fitted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pythia_quant.quantizers.ggml_grid import BlockGrid, join

_INPUTS_AT_ONCE = 2048  # so many are fitted while all others stay; G of all inputs of a wide matrix would be too large
_OUTPUTS_AT_ONCE = 256
_FINEST = 2.0**-17  # of the minimum of a group: with a finer step, fp32 could not tell codes apart


def fit_blocks(target: Tensor, hessian: Tensor, others: Tensor | None, values: Tensor, grid: BlockGrid) -> BlockGrid:
    """Return a grid that leaves less error for unchanged codes, or the same.

    Args:
        target: the weights that give the target outputs, fp32 [in, out].
        hessian: fp32 [in, in].
        others: half the derivative of the error by each weight that errors of other inputs add, fp32 [in, out]; None if
            there are no other inputs.
        values: the quantized weights, fp32 [in, out], which are values of the grid; changed to what codes then mean.
        grid: the grid before.
    """
    inputs, outputs = values.shape
    error = values - target
    fitted = []
    for start in range(0, inputs, _INPUTS_AT_ONCE):
        some = slice(start, min(start + _INPUTS_AT_ONCE, inputs))
        slopes = hessian[some] @ error
        if others is not None:
            slopes += others[some]
        own = hessian[some, some]
        blocks = slice(some.start // grid.kind.block, some.stop // grid.kind.block)
        parts = []
        for first in range(0, outputs, _OUTPUTS_AT_ONCE):
            columns = slice(first, first + _OUTPUTS_AT_ONCE)
            before, mine = grid.part(blocks, columns), values[some, columns]
            codes = before.encode(mine)
            parts.append(_fit(own @ mine - slopes[:, columns], own, codes.float(), before))
            values[some, columns] = parts[-1].decode(codes)
        error[some] = values[some] - target[some]
        fitted.append(join(parts, 1))
    return join(fitted, 0)


def _fit(aim: Tensor, hessian: Tensor, codes: Tensor, grid: BlockGrid) -> BlockGrid:
    matrix, right = _quadratic(aim, hessian, codes.sub_(grid.kind.zero or 0), grid)
    units, integers = _parameters(grid)
    if grid.scales is not None:
        _move_integers(matrix, right, units, integers, grid)
    units = _fit_units(matrix, right, units, integers, grid)
    return _as_grid(units, integers, grid)


def _quadratic(aim: Tensor, hessian: Tensor, steps: Tensor, grid: BlockGrid) -> tuple[Tensor, Tensor]:
    """Return G and r, [parameters, parameters, out] and [parameters, out]: scales of groups first, then minimums."""
    size, groups, outputs = grid.kind.group, len(grid.step), steps.shape[1]
    affine = grid.lowest is not None
    count = 2 * groups if affine else groups

    def total(numbers: Tensor) -> Tensor:
        return numbers.view(groups, size, -1).sum(1)

    matrix = torch.empty(count, count, outputs, device=steps.device)
    for group in range(groups):
        inside = slice(group * size, (group + 1) * size)
        product = hessian[:, inside] @ steps[inside]
        if affine:
            matrix[group, groups:] = total(product)
        matrix[group, :groups] = total(product.mul_(steps))
    right = total(aim * steps)
    if affine:
        matrix[groups:, :groups] = matrix[:groups, groups:].transpose(0, 1)
        matrix[groups:, groups:] = total(total(hessian).T)[:, :, None]
        right = torch.cat((right, total(aim)))
    return matrix, right


def _parameters(grid: BlockGrid) -> tuple[Tensor, Tensor]:
    """Return the numbers of blocks, [numbers, out], and the integers they are multiplied with, [parameters, out].

    The scales of all blocks come before their minimums. A minimum is what is added, so its number may be negative.
    """
    ones = torch.ones_like(grid.step)
    scales = ones if grid.scales is None else grid.scales
    if grid.minimum is None:
        return grid.scale, scales.clone()
    if grid.minimums is None:
        return torch.cat((grid.scale, grid.minimum)), torch.cat((scales, ones))
    return torch.cat((grid.scale, -grid.minimum)), torch.cat((scales, grid.minimums))


def _as_grid(units: Tensor, integers: Tensor, grid: BlockGrid) -> BlockGrid:
    """Undo :func:`_parameters`."""
    blocks, groups = len(grid.scale), len(grid.step)
    scales = None if grid.scales is None else integers[:groups]
    if grid.minimum is None:
        return BlockGrid(grid.kind, units, scales=scales)
    if grid.minimums is None:
        return BlockGrid(grid.kind, units[:blocks], units[blocks:])
    return BlockGrid(grid.kind, units[:blocks], -units[blocks:], scales, integers[groups:])


def _move_integers(matrix: Tensor, right: Tensor, units: Tensor, integers: Tensor, grid: BlockGrid) -> None:
    """Set each integer in turn to the best one while all others stay; `integers` is changed in place."""
    in_block, groups = len(grid.step) // len(grid.scale), len(grid.step)
    numbers = units.repeat_interleave(in_block, 0)
    slopes = torch.einsum("pqo,qo->po", matrix, integers * numbers).sub_(right)
    for place, (number, before) in enumerate(zip(numbers, integers, strict=True)):
        curve = matrix[place, place] * number
        usable = curve * number > 0
        best = before - torch.where(usable, slopes[place] / torch.where(usable, curve, 1.0), 0.0)
        if grid.minimum is None:  # both signs, but no 0
            best = torch.round(best).clamp_(-128, 127)
            best = torch.where(best == 0, before, best)
        else:
            best = torch.round(best).clamp_(1 if place < groups else 0, 63)
        slopes.addcmul_(matrix[place], (best - before) * number)
        integers[place] = best


def _fit_units(matrix: Tensor, right: Tensor, units: Tensor, integers: Tensor, grid: BlockGrid) -> Tensor:
    """Return the numbers of blocks that leave the least error, rounded to fp16; those before where they are better."""
    in_block, blocks = len(grid.step) // len(grid.scale), len(grid.scale)
    count, outputs = units.shape
    folded = (matrix * integers[:, None] * integers[None]).view(count, in_block, count, in_block, outputs).sum((1, 3))
    gram = folded.permute(2, 0, 1).double()
    aim = (right * integers).view(count, in_block, outputs).sum(1).T.double()
    before = units.T.double()
    regular = gram.clone()
    diagonal = regular.diagonal(dim1=1, dim2=2)
    diagonal += torch.where(diagonal <= 0, 1.0, 1e-7 * diagonal)
    missing = aim - torch.einsum("oij,oj->oi", gram, before)
    change, failed = torch.linalg.solve_ex(regular, missing)
    after = (before + change).half().double()

    # A scale keeps its sign and is not 0; a minimum that is subtracted is not negative; no step is too fine for fp32.
    fits = after.isfinite()
    fits[:, :blocks] &= after[:, :blocks] * before[:, :blocks] > 0
    if grid.minimums is not None:
        fits[:, blocks:] &= after[:, blocks:] <= 0
    after = torch.where(fits, after, before)
    if grid.minimum is not None:
        largest = after[:, blocks:].abs() * (1 if grid.minimums is None else 63)
        fine = after[:, :blocks].abs() < largest * _FINEST
        after = torch.where(torch.cat((fine, fine), 1), before, after)

    def error(numbers: Tensor) -> Tensor:  # but for what does not depend on them
        return torch.einsum("oi,oij,oj->o", numbers, gram, numbers) - 2 * (numbers * aim).sum(1)

    better = (failed == 0) & (error(after) < error(before))
    return torch.where(better[:, None], after, before).T.float()
