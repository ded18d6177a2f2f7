"""Damping: what is added to a Hessian's diagonal, so that inputs which the calibration text hardly shows stay calm."""

from __future__ import annotations

import torch
from torch import Tensor

from pythia_quant.core.errors import QuantizationError


def damped(hessian: Tensor, damping: float) -> Tensor:
    """Return the Hessian plus `damping` times its mean diagonal; inputs that were always 0 get the mean, too."""
    diagonal = hessian.diagonal()
    seen = diagonal > 0
    mean = diagonal[seen].mean() if seen.any() else torch.ones((), device=hessian.device)
    result = hessian.clone()
    result.diagonal().add_(torch.where(seen, damping * mean, (1 + damping) * mean))
    return result


def inverse_factor(hessian: Tensor, order: Tensor, damping: float) -> tuple[Tensor, float]:
    """Return the upper triangular U with UᵀU = (damped Hessian)⁻¹, inputs in the order, and the damping that worked.

    Cholesky's factor L of the Hessian with its inputs reversed is, reversed again, an upper triangular V with H = V Vᵀ;
    U = V⁻¹ is L⁻¹ reversed. This takes one factorization, whereas the reference implementation of GPTQ inverts H and
    then factors the inverse.

    Raises:
        QuantizationError: the Hessian is not positive definite with any damping up to 1.
    """
    backwards = order.flip(0)
    trial = damping
    while trial <= 1:
        lower, failure = torch.linalg.cholesky_ex(damped(hessian, trial)[backwards][:, backwards])
        if not failure:
            inverse = _inverted(lower)
            del lower  # each of these matrices takes 2.6 GB for a model of 12b
            return inverse.flip(0, 1), trial
        trial *= 10
    raise QuantizationError(
        f"the inputs' Hessian is not positive definite, with damping from {damping:g} to {trial / 10:g}",
        hint="calibrate with more text, or start with a larger damping",
    )


def _inverted(lower: Tensor, smallest: int = 256) -> Tensor:
    """Return the inverse of a lower triangular matrix, half by half: nearly all of it is products of matrices."""
    result = torch.zeros_like(lower)
    _invert_into(result, lower, smallest)
    return result


def _invert_into(result: Tensor, lower: Tensor, smallest: int) -> None:
    size = len(lower)
    if size <= smallest:
        identity = torch.eye(size, device=lower.device)
        result.copy_(torch.linalg.solve_triangular(lower, identity, upper=False))
        return
    half = size // 2
    _invert_into(result[:half, :half], lower[:half, :half], smallest)
    _invert_into(result[half:, half:], lower[half:, half:], smallest)
    result[half:, :half] = result[half:, half:] @ (lower[half:, :half] @ result[:half, :half]).neg_()
