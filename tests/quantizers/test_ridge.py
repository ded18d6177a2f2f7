"""The ridge against numpy in fp64, and its choice against trying all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pythia_quant.quantizers.calibration import HELD_BYTES, Moments, held_out
from pythia_quant.quantizers.damping import inverse_factor
from pythia_quant.quantizers.ridge import RIDGES, choose, fit


def case(tokens: int, signal: float, seed: int, width: int = 48, outputs: int = 96) -> tuple[Tensor, Tensor]:
    """Return correlated inputs, and errors of which a part follows from them."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) * torch.rand(width, 1, generator=generator) ** 3
    inputs = torch.randn(tokens, width, generator=generator) @ mixing + 1
    follows = signal * torch.randn(width, outputs, generator=generator)
    return inputs, inputs @ follows + torch.randn(tokens, outputs, generator=generator)


def regression(inputs: Tensor, errors: Tensor, ridge: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    x, e = (part.double().numpy() - part.double().numpy().mean(0) for part in (inputs, errors))
    hessian = x.T @ x
    solved: np.ndarray[tuple[int, int], np.dtype[np.float64]] = np.linalg.solve(
        hessian + ridge * hessian.diagonal().mean() * np.eye(len(hessian)), x.T @ e
    ).T
    return solved


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_the_fit_is_a_ridge_regression(ridge: float) -> None:
    inputs, errors = case(300, 0.1, seed=0)
    moments = Moments(48, 96)
    moments.add(inputs, errors)
    found = fit(moments.hessian(), moments.cross(), ridge)
    assert found is not None
    np.testing.assert_allclose(found, regression(inputs, errors, ridge), rtol=0, atol=1e-4)


def test_a_hessian_that_is_not_positive_definite_has_no_fit() -> None:
    hessian = torch.full((8, 8), 5.0) - 4 * torch.eye(8)
    hessian[0, 1] = hessian[1, 0] = -900.0
    assert fit(hessian, torch.ones(2, 8), 0.01) is None


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("tokens", "signal"), [(40, 0.0), (60, 0.1), (100, 0.3), (3000, 0.1), (3000, 1.0)])
def test_the_choice_is_the_best_of_all_on_held_out_tokens(tokens: int, signal: float, mixed: bool) -> None:
    """The errors of all outputs, in fp64; the choice sees sums of them with random signs."""
    inputs, errors = case(tokens, signal, seed=tokens)
    mix = torch.randn(64, 96, generator=torch.Generator().manual_seed(1)) if mixed else None
    outputs = errors if mix is None else errors @ mix.T
    moments, cut = Moments(48, 96), tokens * 3 // 4
    moments.add(inputs[:cut], errors[:cut])
    moments.hold(inputs[cut:], errors[cut:])
    chosen = choose(moments, mix, outputs.shape[1])
    x = inputs[cut:].double().numpy() - inputs[:cut].double().numpy().mean(0)
    e = outputs[cut:].double().numpy() - outputs[:cut].double().numpy().mean(0)
    left = {ridge: np.square(e - x @ regression(inputs[:cut], outputs[:cut], ridge).T).sum() for ridge in RIDGES}
    assert chosen is not None
    assert left[chosen] <= 1.02 * min(left.values())
    assert max(left.values()) > 1.1 * min(left.values())  # so that a wrong choice would be seen


def test_what_is_noise_moves_no_weight_and_what_is_certain_moves_it_all_the_way() -> None:
    noise, certain = case(64, 0.0, seed=3), case(4000, 30.0, seed=4)
    for (inputs, errors), wanted in ((noise, RIDGES[-1]), (certain, RIDGES[0])):
        moments = Moments(48, 96)
        moments.add(inputs[16:], errors[16:])
        moments.hold(inputs[:16], errors[:16])
        assert choose(moments, None, 96) == wanted


def test_nothing_is_chosen_where_nothing_is_held_out() -> None:
    moments = Moments(48, 96)
    moments.add(*case(64, 0.1, seed=5))
    assert choose(moments, None, 96) is None


@pytest.mark.parametrize("centered", [True, False])
def test_what_was_held_counts_once_released(centered: bool) -> None:
    inputs, errors = case(200, 0.1, seed=6)
    held, added = Moments(48, 96, centered=centered), Moments(48, 96, centered=centered)
    held.add(inputs[:150], errors[:150])
    held.hold(inputs[150:], errors[150:])
    before = held.hessian(finished=False)
    held.release()
    added.add(inputs, errors)
    assert held.count == added.count == 200
    assert not torch.allclose(before, held.hessian(finished=False), rtol=1e-3)
    torch.testing.assert_close(held.hessian(), added.hessian(), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(held.cross(), added.cross(), rtol=1e-4, atol=1e-2)
    assert held.held() is None


@given(st.integers(1, 1000), st.integers(1, 4096), st.integers(1, 1_000_000))
def test_a_part_of_the_windows_is_held_out(windows: int, tokens: int, bytes_a_token: int) -> None:
    out = held_out(windows, tokens, bytes_a_token)
    assert len(out) == len(set(out)) <= min(16, max(1, windows // 4))
    assert len(out) >= (windows > 1)
    assert set(out) <= set(range(windows))
    assert len(out) <= 1 or len(out) * tokens * bytes_a_token <= HELD_BYTES


@pytest.mark.parametrize("width", [1, 200, 257, 1030])
def test_the_factor_is_that_of_the_inverse(width: int) -> None:
    """The factor is inverted half by half, below 256 at once."""
    inputs = torch.randn(3 * width, width, generator=torch.Generator().manual_seed(width), dtype=torch.float64)
    hessian, order = (inputs.T @ inputs).float(), torch.randperm(width, generator=torch.Generator().manual_seed(1))
    factor, damping = inverse_factor(hessian, order, 0.1)
    wanted = np.linalg.inv(
        hessian.double().numpy() + damping * hessian.diagonal().double().mean().item() * np.eye(width)
    )
    found = (factor.double().T @ factor.double())[order.argsort()][:, order.argsort()].numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert not factor.tril(-1).any()
