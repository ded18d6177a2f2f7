"""Improve integers that are already good: move single codes, and fit the scales to the codes as they are.

Both lower tr((T - Q) H (T - Q)ᵀ), the error of the outputs, and never raise it. GPTQ cannot go back on a code; these
can. Moving one code at a time to where the others want it is coordinate descent (QuantEase, arXiv 2309.01885).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pythia_quant.quantizers.grid import Grid, bounds

_BLOCK = 128
_BYTES_AT_ONCE = 2**28


def move_codes(target: Tensor, hessian: Tensor, values: Tensor, grid: Grid) -> None:
    """Set every weight in turn to the grid value that leaves the least error, all others being as they are.

    Args:
        target: fp32 [in, out], what the outputs should come from.
        hessian: fp32 [in, in], its diagonal positive.
        values: fp32 [in, out], on the grid; changed in place.
        grid: its scale and zero [in, out] or broadcasting to that.
    """
    diagonal = hessian.diagonal()
    error = values - target
    for start in range(0, len(target), _BLOCK):
        block = slice(start, start + _BLOCK)
        slopes = hessian[block] @ error  # half the derivative by each weight of the block, kept up to date below
        inner = hessian[block, block]
        for i, row in enumerate(range(start, min(start + _BLOCK, len(target)))):
            best = torch.addcdiv(values[row], slopes[i], diagonal[row], value=-1)
            moved = Grid(grid.bits, grid.scale[row], grid.zero[row]).round(best)
            change = moved - values[row]
            values[row] = moved
            error[row] += change
            slopes[i + 1 :].addr_(inner[i + 1 :, i], change)


def fit_scales(target: Tensor, hessian: Tensor, steps: Tensor, scale: Tensor, groups: Tensor) -> Tensor:
    """Return the scales that leave the least error for given codes, rounded to fp16.

    An output's error is quadratic in its scales: with a group's steps a_g, its weights are Σ s_g a_g, and the best
    scales solve G s = r with G_gh = a_gᵀ H a_h and r_g = a_gᵀ H t. A group of zeros keeps its scale, and so does every
    group of an output where one would not be positive, or where rounded to fp16 they do not lower the error.

    Args:
        target: fp32 [in, out].
        hessian: fp32 [in, in].
        steps: fp32 [in, out], code - zero.
        scale: fp32 [in, out], those the steps have now.
        groups: int32 [in], the group of each input; inputs of a group are neighbours.

    Returns:
        fp32 [in, out], holding values that fp16 can.
    """
    inputs, outputs = target.shape
    count = int(groups[-1]) + 1
    at_once = max(1, _BYTES_AT_ONCE // (16 * count * count + 16 * inputs))
    found = torch.empty_like(scale)
    for start in range(0, outputs, at_once):
        part = slice(start, start + at_once)
        found[:, part] = _fit_scales(target[:, part], hessian, steps[:, part], scale[:, part], groups)
    return found


def _fit_scales(target: Tensor, hessian: Tensor, steps: Tensor, scale: Tensor, groups: Tensor) -> Tensor:
    count, outputs = int(groups[-1]) + 1, steps.shape[1]

    def total(products: Tensor) -> Tensor:  # over each group's inputs
        return torch.zeros(count, outputs, device=steps.device).index_add_(0, groups, products)

    gram = torch.empty(count, count, outputs, device=steps.device)
    before = torch.empty(outputs, count, dtype=torch.float64, device=steps.device)
    for group, (start, stop) in enumerate(bounds(groups)):
        gram[group] = total((hessian[:, start:stop] @ steps[start:stop]).mul_(steps))
        before[:, group] = scale[start]
    matrix, right = gram.permute(2, 0, 1).double(), total((hessian @ target).mul_(steps)).T.double()
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    empty = diagonal <= 0
    diagonal += torch.where(empty, 1.0, 1e-9 * diagonal)
    solved, failed = torch.linalg.solve_ex(matrix, right)
    after = torch.where(empty, before, solved).half().double()

    def error(scales: Tensor) -> Tensor:  # but for what no scale changes
        return torch.einsum("og,ogh,oh->o", scales, matrix, scales) - 2 * (scales * right).sum(1)

    better = (failed == 0) & (after > 0).all(1) & after.isfinite().all(1) & (error(after) < error(before))
    return torch.where(better[:, None], after, before).T.float()[groups]
