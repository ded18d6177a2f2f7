"""How far weights move to make up for errors of earlier layers: the ridge of a regression, chosen on held-out windows.

The target of a linear layer is W + C (H + r·d·I)⁻¹ with H = Σ x xᵀ, C = Σ e xᵀ and d the mean diagonal of H, see
:mod:`pythia_quant.quantizers.gptq`. With few tokens an input, a small ridge r fits the noise of the calibration text.
So a part of its windows is held out, and r is the one whose fit leaves the least error there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pythia_quant.core.precision import exact_products
from pythia_quant.quantizers.calibration import Moments
from pythia_quant.quantizers.damping import damped

RIDGES = (0.1, 1.0, 10.0, 1000.0)
"""The ridges to choose from, relative to the mean diagonal. The last all but leaves the weights where they are.

Held-out windows are text of the calibration's own kind. With 128 windows of 512 tokens they prefer 0.01, which is no
better there, and worse on text of another kind (a trained model of the 14m shape, calibrated on C4, measured on code:
9.3 mnat for 8.3).
"""

ROUNDING = 0.1
"""The damping with which codes are chosen, where held-out windows choose the ridge.

On that model, with 8, 32 and 128 windows, 0.03 was equal within error, and 0.01 was worse on code.
"""

_SKETCHES = 128


def fit(hessian: Tensor, cross: Tensor, ridge: float) -> Tensor | None:
    """Return C (H + r·d·I)⁻¹, fp32 [out, in]; None if the damped Hessian is not positive definite.

    Args:
        hessian: Σ x xᵀ, fp32 [in, in].
        cross: Σ e xᵀ, fp32 [out, in].
        ridge: r.
    """
    factor, failure = torch.linalg.cholesky_ex(damped(hessian, ridge))
    return None if failure else torch.cholesky_solve(cross.T, factor).T


@exact_products()
def choose(moments: Moments, weight: Tensor | None, outputs: int) -> float | None:
    """Return the ridge whose fit leaves the least squared error on the held-out tokens; None if nothing is held out.

    The error of all outputs is estimated from sums of outputs with random signs, whose expected squares add up to it.
    The error has one minimum in r, so ridges are tried from the one that the tokens an input suggest, as long as it
    falls.

    Args:
        moments: the sums without the held-out tokens, and those tokens.
        weight: what makes the outputs' errors of the errors, fp32 [outputs, errors]; None if they are those.
        outputs: the number of outputs.
    """
    held = moments.held()
    if held is None:
        return None
    inputs, errors = held
    signs = torch.randint(0, 2, (_SKETCHES, outputs), generator=torch.Generator().manual_seed(0)).to(inputs) * 2 - 1
    mixed = signs if weight is None else signs @ weight
    hessian, cross, wanted = moments.hessian(finished=False), mixed @ moments.cross(), errors @ mixed.T

    def left(ridge: float) -> float:
        moved = fit(hessian, cross, ridge)
        return math.inf if moved is None else float((wanted - inputs @ moved.T).square().sum())

    return _least(left, _suggested(moments.count, len(hessian)))


def _suggested(tokens: int, inputs: int) -> int:
    """Return the place of the ridge next to the inverse of the tokens an input."""
    decades = round(math.log10(max(inputs, 1) / max(tokens, 1)))
    return min(max(decades + 1, 0), len(RIDGES) - 1)


def _least(error: Callable[[float], float], start: int) -> float:
    """Return the ridge with the least error: go up while it falls, otherwise down."""
    best, lowest = start, error(RIDGES[start])
    for step in (1, -1):
        while 0 <= best + step < len(RIDGES) and (found := error(RIDGES[best + step])) < lowest:
            best, lowest = best + step, found
        if best != start:
            break
    return RIDGES[best]
