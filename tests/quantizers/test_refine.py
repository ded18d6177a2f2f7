"""Refinements against exhaustive search, and against a least-squares solver."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pythia_quant.quantizers import refine
from pythia_quant.quantizers.grid import Grid, fit


def case(seed: int, width: int = 64, out: int = 5, bits: int = 4) -> tuple[Tensor, Tensor, Tensor, Grid, Tensor]:
    """Return target [in, out], Hessian, rounded values, their grid and the groups of 16 inputs."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(3 * width, width, generator=generator) @ torch.randn(width, width, generator=generator)
    hessian = inputs.T @ inputs
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    target = torch.randn(width, out, generator=generator)
    groups = torch.arange(width) // 16
    parts = [fit(target[start : start + 16], bits, 0) for start in range(0, width, 16)]
    grid = Grid(bits, *(torch.cat([getattr(part, name) for part in parts])[groups] for name in ("scale", "zero")))
    return target, hessian, grid.round(target), grid, groups


def error(values: Tensor, target: Tensor, hessian: Tensor) -> Tensor:
    difference = (values - target).double()
    return ((hessian.double() @ difference) * difference).sum(0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([2, 4]))
def test_no_move_raises_the_error_and_none_is_left_in_the_end(seed: int, bits: int) -> None:
    target, hessian, values, grid, _ = case(seed, bits=bits)
    before = error(values, target, hessian)
    for _ in range(100):
        earlier = values.clone()
        refine.move_codes(target, hessian, values, grid)
        after = error(values, target, hessian)
        assert (after <= before * (1 + 1e-4)).all()
        before = after
        if torch.equal(values, earlier):  # so it stays
            break
    # Now no single code can be moved to lower the error by more than rounding: try all one-step moves.
    for row, step in product(range(0, 64, 7), (-1, 1)):
        moved = values.clone()
        candidate = values[row] / grid.scale[row] + grid.zero[row] + step
        inside = (candidate >= 0) & (candidate <= 2**bits - 1)
        moved[row] += torch.where(inside, step * grid.scale[row], 0.0)
        assert (error(moved, target, hessian) >= before * (1 - 1e-4)).all()


def test_moves_where_outputs_cost_together_lower_that_error_and_none_is_left() -> None:
    """The error is computed as ‖A (T - Q) B‖² for G = AᵀA and H = B Bᵀ, and all one-step moves are tried."""
    target, hessian, values, grid, _ = case(3)
    mixing = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).double()
    root = torch.linalg.cholesky(hessian.double())

    def cost(rounded: Tensor) -> float:
        return float((mixing @ (rounded - target).double().T @ root).square().sum())

    alone = values.clone()
    for _ in range(20):
        refine.move_codes(target, hessian, alone, grid)
    before = cost(values)
    for _ in range(20):
        refine.move_codes(target, hessian, values, grid, (mixing.T @ mixing).float())
        after = cost(values)
        assert after <= before * (1 + 1e-4)
        before = after
    assert before < 0.9 * cost(alone)
    for row, out, step in product(range(0, 64, 9), range(5), (-1, 1)):
        code = float(values[row, out] / grid.scale[row, out] + grid.zero[row, out]) + step
        if 0 <= round(code) <= 15:
            moved = values.clone()
            moved[row, out] += step * grid.scale[row, out]
            assert cost(moved) >= before * (1 - 1e-4)


def test_outputs_that_cost_alone_are_moved_as_if_there_were_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine, "_ENOUGH", 0.0)
    target, hessian, values, grid, _ = case(4)
    alone, costs = values.clone(), torch.tensor([0.1, 1.0, 2.0, 3.0, 50.0])
    for out in range(5):
        one, part = alone[:, [out]], Grid(4, grid.scale[:, [out]], grid.zero[:, [out]])
        refine.move_codes(target[:, [out]], hessian, one, part, torch.ones(1, 1))
        alone[:, out] = one[:, 0]
    refine.move_codes(target, hessian, values, grid, torch.diag(costs))
    assert torch.equal(values, alone)
    assert not torch.equal(values, case(4)[2])


@given(st.integers(0, 2**32))
def test_moves_chosen_together_gain_what_is_said_and_none_that_is_left_gains(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(12, 12, generator=generator).double()
    slopes, form = torch.randn(12, generator=generator).double() * 4, root @ root.T
    pairs = 2 * (form - torch.diag(form.diagonal()))
    chosen, gain = refine._choose(form.diagonal() + slopes, pairs)

    def cost(moves: list[int]) -> float:
        made = torch.zeros(12).double()
        made[moves] = 1
        return float(made @ form @ made + slopes @ made)

    assert cost(chosen) == pytest.approx(-gain, abs=1e-9)
    assert all(cost([*chosen, other]) >= -gain - 1e-9 for other in range(12) if other not in chosen)


def test_two_weights_by_exhaustion() -> None:
    """With two inputs all code pairs can be tried: from the best code of one, the other's is the best there is."""
    target, grid = torch.tensor([[0.3], [-0.4]]), Grid(2, torch.full((2, 1), 0.5), torch.full((2, 1), 2.0))
    hessian = torch.tensor([[2.0, 1.5], [1.5, 2.0]])
    values = grid.round(target)
    for _ in range(5):
        refine.move_codes(target, hessian, values, grid)
    pairs = [torch.tensor([[a], [b]]) for a, b in product((-1.0, -0.5, 0.0, 0.5), repeat=2)]
    assert float(error(values, target, hessian)) == min(float(error(pair, target, hessian)) for pair in pairs)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32))
def test_fitted_scales_are_those_of_least_squares(seed: int) -> None:
    target, hessian, values, grid, groups = case(seed)
    steps = torch.round(values / grid.scale)
    found = refine.fit_scales(target, hessian, steps, grid.scale, groups)
    assert torch.equal(found.half().float(), found)
    assert (error(steps * found, target, hessian) <= error(values, target, hessian) * (1 + 1e-6)).all()
    root = np.linalg.cholesky(hessian.double().numpy()).T
    for column in range(target.shape[1]):
        design = np.stack([np.where(groups == group, steps[:, column], 0) for group in range(4)], axis=1)
        best = np.linalg.lstsq(root @ design, root @ target[:, column].double().numpy(), rcond=None)[0]
        if (best > 1e-3).all():
            np.testing.assert_allclose(found[::16, column], best, rtol=2e-3)


def test_parts_of_the_outputs_are_fitted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    target, hessian, values, grid, groups = case(3, out=40)
    steps = torch.round(values / grid.scale)
    whole = refine.fit_scales(target, hessian, steps, grid.scale, groups)
    monkeypatch.setattr(refine, "_BYTES_AT_ONCE", 12_000)  # nine outputs
    in_parts = refine.fit_scales(target, hessian, steps, grid.scale, groups)
    torch.testing.assert_close(in_parts, whole, rtol=2e-3, atol=0)


def test_a_group_of_zeros_keeps_its_scale() -> None:
    target, hessian, values, grid, groups = case(4)
    steps = torch.round(values / grid.scale)
    steps[16:32] = 0
    found = refine.fit_scales(target, hessian, steps, grid.scale, groups)
    assert torch.equal(found[16:32], grid.scale[16:32])
    assert torch.isfinite(found).all()
