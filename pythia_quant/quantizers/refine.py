"""Improve integers that GPTQ has chosen: move single codes, and fit the scales to the codes.

Neither raises the error of the outputs, tr((T - Q) H (T - Q)ᵀ). GPTQ itself never changes a code again. To move one
code at a time to its best value, given all others, is coordinate descent (QuantEase, arXiv 2309.01885).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pythia_quant.quantizers.grid import bounds

_BLOCK = 128
_BYTES_AT_ONCE = 2**28
_CANDIDATES = 512
_ENOUGH = 1e-3
"""Moves of a block end when some hundred at once gain less than this share of what was gained before."""


class Row(Protocol):
    """The values that the weights of one input, or of some, may have."""

    def round(self, values: Tensor) -> Tensor:
        """Return the nearest values, fp32 in the shape of `values`, [out] or [inputs, out]."""
        ...


class Rows(Protocol):
    """The values that the weights of some inputs may have."""

    def at(self, rows: int | slice) -> Row:
        """Return those of one input, or of neighbours."""
        ...


def move_codes(target: Tensor, hessian: Tensor, values: Tensor, grid: Rows, outputs: Tensor | None = None) -> None:
    """Set each weight in turn to the grid value that leaves the least error while all other weights stay.

    Args:
        target: the weights that give the target outputs, fp32 [in, out].
        hessian: fp32 [in, in], with a positive diagonal.
        values: the quantized weights, fp32 [in, out], which are values of the grid; changed in place.
        grid: the grid of each input.
        outputs: what errors of the outputs cost together, a positive definite G, fp32 [out, out]: the error is then
            tr(G (T - Q) H (T - Q)ᵀ), and of all codes of a block those are moved that gain most. None if all cost the
            same.
    """
    if outputs is not None:
        _move_together(target, hessian, values, grid, outputs)
        return
    diagonal = hessian.diagonal()
    error = values - target
    for start in range(0, len(target), _BLOCK):
        block = slice(start, start + _BLOCK)
        slopes = hessian[block] @ error  # half the derivative by each weight of the block, kept up to date below
        inner = hessian[block, block]
        for i, row in enumerate(range(start, min(start + _BLOCK, len(target)))):
            best = torch.addcdiv(values[row], slopes[i], diagonal[row], value=-1)
            moved = grid.at(row).round(best)
            change = moved - values[row]
            values[row] = moved
            error[row] += change
            slopes[i + 1 :].addr_(inner[i + 1 :, i], change)


def _move_together(target: Tensor, hessian: Tensor, values: Tensor, grid: Rows, outputs: Tensor) -> None:
    """Move codes where outputs cost together: of all codes of a block, those that gain most, until little is gained."""
    error = values - target
    for start in range(0, len(target), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(target)))
        inner, levels, now = hessian[block, block], grid.at(block), values[block]
        slopes, gained = hessian[block] @ error @ outputs, 0.0
        curvature = inner.diagonal()[:, None] * outputs.diagonal()
        while True:
            change = levels.round(torch.addcdiv(now, slopes, curvature, value=-1)).sub_(now)
            costs = torch.mul(curvature, change).add_(slopes, alpha=2).mul_(change).flatten()
            cost, best = costs.topk(min(_CANDIDATES, len(costs)), largest=False)
            rows, columns = best // len(outputs), best % len(outputs)
            steps = change[rows, columns]
            pairs = inner[rows[:, None], rows].mul_(outputs[columns[:, None], columns]).mul_(steps[:, None]).mul_(steps)
            chosen, gain = _choose(cost, pairs.mul_(2))
            if gain <= _ENOUGH * gained:
                break
            gained += gain
            rows, columns, steps = rows[chosen], columns[chosen], steps[chosen]
            moved, places = columns.unique(return_inverse=True)
            changes = torch.zeros(len(now), len(moved), device=now.device)
            changes[rows, places] = steps
            slopes.addmm_(inner, changes @ outputs[moved])
            now[rows, columns] += steps
        error[block] = now - target[block]


def _choose(cost: Tensor, pairs: Tensor) -> tuple[list[int], float]:
    """Choose moves one after the other, always the one that gains most beside those chosen, while one gains.

    Args:
        cost: what each move adds to the error alone, fp32 [moves].
        pairs: what two moves add beside that, fp32 [moves, moves].

    Returns:
        The moves, and what they gain together.
    """
    left, each, chosen, gain = cost.cpu().numpy().copy(), pairs.cpu().numpy(), [], 0.0
    while (least := left[best := int(left.argmin())]) < 0:  # numpy: an operation of torch takes longer than its work
        chosen.append(best)
        gain -= float(least)
        left += each[best]
        left[best] = np.inf
    return chosen, gain


def fit_scales(
    target: Tensor, hessian: Tensor, steps: Tensor, scale: Tensor, groups: Tensor, others: Tensor | None = None
) -> Tensor:
    """Return the scales that leave the least error for unchanged codes, rounded to fp16.

    An output's error is quadratic in its scales: the weights are Σ s_g a_g, where a_g are the steps of group g, and the
    best scales solve G s = r with G_gh = a_gᵀ H a_h and r_g = a_gᵀ H t. The scale of a group of zeros stays. All scales
    of an output stay if one would not be positive, or if the error with rounded scales is not lower.

    Args:
        target: the weights that give the target outputs, fp32 [in, out].
        hessian: fp32 [in, in].
        steps: code - zero, fp32 [in, out].
        scale: the scale of each step before, fp32 [in, out].
        groups: the group of each input, int32 [in]; the inputs of a group are neighbours.
        others: half the derivative of the error by each weight that errors of other inputs add, fp32 [in, out]; None if
            there are no other inputs.

    Returns:
        The scale of each step, fp32 [in, out], with values that fp16 can represent.
    """
    inputs, outputs = target.shape
    count = int(groups[-1]) + 1
    at_once = max(1, _BYTES_AT_ONCE // (16 * count * count + 16 * inputs))
    fitted = torch.empty_like(scale)
    for start in range(0, outputs, at_once):
        part = slice(start, start + at_once)
        aim = hessian @ target[:, part]
        if others is not None:
            aim -= others[:, part]
        fitted[:, part] = _fit_scales(aim, hessian, steps[:, part], scale[:, part], groups)
    return fitted


def _fit_scales(aim: Tensor, hessian: Tensor, steps: Tensor, scale: Tensor, groups: Tensor) -> Tensor:
    count, outputs = int(groups[-1]) + 1, steps.shape[1]

    def total(products: Tensor) -> Tensor:  # over each group's inputs
        return torch.zeros(count, outputs, device=steps.device).index_add_(0, groups, products)

    gram = torch.empty(count, count, outputs, device=steps.device)
    before = torch.empty(outputs, count, dtype=torch.float64, device=steps.device)
    for group, (start, stop) in enumerate(bounds(groups)):
        gram[group] = total((hessian[:, start:stop] @ steps[start:stop]).mul_(steps))
        before[:, group] = scale[start]
    matrix, right = gram.permute(2, 0, 1).double(), total(aim.mul_(steps)).T.double()
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    empty = diagonal <= 0
    diagonal += torch.where(empty, 1.0, 1e-9 * diagonal)
    solved, failed = torch.linalg.solve_ex(matrix, right)
    after = torch.where(empty, before, solved).half().double()

    def error(scales: Tensor) -> Tensor:  # without the part that does not depend on the scales
        return torch.einsum("og,ogh,oh->o", scales, matrix, scales) - 2 * (scales * right).sum(1)

    better = (failed == 0) & (after > 0).all(1) & after.isfinite().all(1) & (error(after) < error(before))
    return torch.where(better[:, None], after, before).T.float()[groups]
