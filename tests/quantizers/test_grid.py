"""Grids: nearest values, fp16 scales, and what no scale can express."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rounding import round_to_nearest

from pythia_quant.core.errors import QuantizationError
from pythia_quant.quantizers.grid import Quantized, consecutive_groups, fit


@given(st.integers(0, 2**32), st.sampled_from([2, 3, 4, 8]), st.floats(-6, 3), st.booleans(), st.floats(-3, 3))
def test_encode_finds_the_nearest_value(seed: int, bits: int, magnitude: float, symmetric: bool, shift: float) -> None:
    values = (torch.randn(3, 32, generator=torch.Generator().manual_seed(seed)) + shift) * 10**magnitude
    grid = fit(values, bits, dim=1, symmetric=symmetric)
    all_values = grid.decode(torch.arange(2**bits, dtype=torch.uint8).expand(3, -1))
    distance = (values[:, :, None] - all_values[:, None]).abs().amin(-1)
    rounded = grid.decode(grid.encode(values))
    torch.testing.assert_close((values - rounded).abs(), distance, rtol=1e-3, atol=1e-12)
    assert torch.equal(grid.round(values), rounded)
    assert grid.zero.min() >= 1  # what the GPTQ format can hold
    assert grid.zero.max() <= 2**bits - 1
    if magnitude >= -1:  # where fp16 has all its digits: a step at most beyond the outermost code, half a step within
        assert ((values - rounded).abs() <= grid.scale * (1 + 2**-10 * 2**bits)).all()


@given(st.integers(0, 2**32), st.sampled_from([2, 3, 4, 8]), st.booleans())
def test_a_searched_grid_has_no_larger_error_by_importance(seed: int, bits: int, symmetric: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    values, importance = torch.randn(5, 64, generator=generator) ** 3, torch.rand(64, generator=generator)

    def error(weights: torch.Tensor | None) -> torch.Tensor:
        grid = fit(values, bits, dim=1, symmetric=symmetric, importance=weights)
        return ((grid.round(values) - values).square() * importance).sum(1)

    assert (error(importance) <= error(None)).all()


def test_the_search_clips_where_codes_are_few() -> None:
    values = torch.randn(50, 128, generator=torch.Generator().manual_seed(0))
    full, searched = (fit(values, 2, dim=1, importance=weights) for weights in (None, torch.ones(1)))
    errors = [(grid.round(values) - values).square().mean() for grid in (full, searched)]
    assert errors[1] < 0.5 * errors[0]
    assert 0.9 < float(searched.scale.mean()) < 1.2  # 0.9957 is best for a normal distribution (Max, 1960)


def test_an_asymmetric_grid_by_hand() -> None:
    """From -1 to 2 with the codes 0 … 15: a step of 0.2, and 5 of them below 0."""
    grid = fit(torch.tensor([[-1.0, 0.1, 0.5, 2.0]]), bits=4, dim=1, symmetric=False)
    assert float(grid.scale) == pytest.approx(0.2, rel=1e-3)
    assert float(grid.zero) == 5
    assert grid.encode(torch.tensor([[-1.0, 0.15, 0.59, 2.0]])).tolist() == [[0, 6, 8, 15]]


@pytest.mark.parametrize(("value", "zero"), [(1.0, 1), (-1.0, 15)])
def test_values_of_one_sign_leave_a_code_for_zero(value: float, zero: int) -> None:
    grid = fit(torch.tensor([[value, value / 2]]), bits=4, dim=1, symmetric=False)
    assert float(grid.zero) == zero
    assert float(grid.round(torch.tensor([[value]]))) == pytest.approx(value, rel=1e-3)
    assert float(grid.round(torch.zeros(1, 1))) == 0


def test_rows_and_columns_are_parts_of_the_matrix() -> None:
    whole = round_to_nearest(torch.randn(6, 96, generator=torch.Generator().manual_seed(2)), bits=4, group_size=32)
    dense = whole.dequantize()
    assert torch.equal(whole.rows(slice(2, 5)).dequantize(), dense[2:5])
    part = whole.columns(slice(32, 96))
    assert torch.equal(part.dequantize(), dense[:, 32:])
    assert part.groups.tolist() == [0] * 32 + [1] * 32
    shuffled = Quantized(
        4, whole.codes, whole.scales, whole.zeros, torch.cat([whole.groups[:32], whole.groups[32:].flip(0)])
    )
    assert torch.equal(shuffled.columns(slice(32, 96)).dequantize(), shuffled.dequantize()[:, 32:])
    assert consecutive_groups(96, 32).tolist() == whole.groups.tolist()


def test_hand_computed_row() -> None:
    quantized = round_to_nearest(torch.tensor([[-7.5, -1.0, 0.0, 7.5]]), bits=4, group_size=4)
    assert float(quantized.scales) == 1.0  # 2 * 7.5 / 15
    assert quantized.zeros.tolist() == [[8]]
    assert quantized.codes.tolist() == [[0, 7, 8, 15]]  # -7.5 rounds to -8; 7.5 to 8, which only 7 stands in for
    assert quantized.dequantize().tolist() == [[-8.0, -1.0, 0.0, 7.0]]


def test_each_group_has_its_own_scale() -> None:
    weight = torch.cat([torch.full((2, 32), 0.15), torch.full((2, 32), 15.0)], dim=1)
    quantized = round_to_nearest(weight, bits=4, group_size=32)
    assert quantized.groups.tolist() == [0] * 32 + [1] * 32
    torch.testing.assert_close(quantized.scales[:, 1].float(), torch.full((2,), 2.0))
    torch.testing.assert_close(quantized.scales[:, 0].float(), torch.full((2,), 0.02), rtol=1e-3, atol=0)


def test_codes_are_chosen_for_the_scale_that_is_stored() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    quantized = round_to_nearest(weight, bits=8, group_size=128)
    exact = quantized.scales.double()
    assert torch.equal(quantized.codes, ((weight.double() / exact).round() + 128).clamp(0, 255).byte())


def test_zeros_come_back_as_zeros() -> None:
    quantized = round_to_nearest(torch.zeros(2, 32), bits=4, group_size=32)
    assert torch.equal(quantized.dequantize(), torch.zeros(2, 32))
    assert torch.isfinite(quantized.scales).all()


def test_a_scale_beyond_fp16_is_refused() -> None:
    with pytest.raises(QuantizationError, match=r"needs the scale 1\.333e\+05, which fp16 cannot hold"):
        round_to_nearest(torch.full((1, 32), 1e6), bits=4, group_size=32)


def test_a_group_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(QuantizationError, match="48 does not divide the width 64"):
        round_to_nearest(torch.zeros(1, 64), bits=4, group_size=48)
