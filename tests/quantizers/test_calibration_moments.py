"""Sums of moments against numpy on all tokens at once, in fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pythia_quant.quantizers import calibration as module
from pythia_quant.quantizers.calibration import Moments


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("columns_at_once", [16, 512])
def test_moments_equal_those_of_numpy(monkeypatch: pytest.MonkeyPatch, centered: bool, columns_at_once: int) -> None:
    monkeypatch.setattr(module, "_COLUMNS_AT_ONCE", columns_at_once)
    generator = torch.Generator().manual_seed(0)
    inputs, errors = torch.randn(6, 50, 40, generator=generator) + 2, torch.randn(6, 50, 7, generator=generator) - 1
    moments = Moments(40, 7, centered=centered)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        moments.add(inputs[part], errors[part])
    x, e = inputs.double().flatten(0, 1).numpy(), errors.double().flatten(0, 1).numpy()
    np.testing.assert_allclose(moments.mean_error, e.mean(0), rtol=1e-5)
    if centered:
        np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-5)
        x, e = x - x.mean(0), e - e.mean(0)
    np.testing.assert_allclose(moments.hessian(), x.T @ x, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(moments.cross(), e.T @ x, rtol=1e-5, atol=1e-3)
    assert moments.count == 300
    assert moments.bad == 0


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    inputs = torch.randn(2000, 16, generator=torch.Generator().manual_seed(1)) + 3000
    moments = Moments(16)
    for part in inputs.split(100):
        moments.add(part)
    exact = inputs.double() - inputs.double().mean(0)
    error = (moments.hessian().double() - exact.T @ exact).norm() / (exact.T @ exact).norm()
    assert error < 1e-5  # about 0, the squares of 3000 would leave an error of 1e-2


def test_tokens_that_are_not_finite_are_counted() -> None:
    inputs, errors = torch.zeros(5, 3), torch.zeros(5, 2)
    inputs[1, 2], inputs[3, 0] = torch.inf, torch.nan
    errors[4, 1] = -torch.inf
    moments = Moments(3, 2)
    moments.add(inputs, errors)
    assert moments.bad == 3
