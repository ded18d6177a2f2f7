"""Grids: nearest values, fp16 scales, and what no scale can express."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pythia_quant.errors import QuantizationError
from pythia_quant.quantizers import rtn
from pythia_quant.quantizers.grid import fit_symmetric


@given(st.integers(0, 2**32), st.sampled_from([2, 3, 4, 8]), st.floats(-6, 3))
def test_encode_finds_the_nearest_value(seed: int, bits: int, magnitude: float) -> None:
    values = torch.randn(3, 32, generator=torch.Generator().manual_seed(seed)) * 10**magnitude
    grid = fit_symmetric(values, bits, dim=1)
    all_values = grid.decode(torch.arange(2**bits, dtype=torch.uint8).expand(3, -1))
    distance = (values[:, :, None] - all_values[:, None]).abs().amin(-1)
    torch.testing.assert_close((values - grid.decode(grid.encode(values))).abs(), distance, rtol=1e-3, atol=1e-12)


def test_hand_computed_row() -> None:
    quantized = rtn.quantize(torch.tensor([[-7.5, -1.0, 0.0, 7.5]]), bits=4, group_size=4)
    assert float(quantized.scales) == 1.0  # 2 * 7.5 / 15
    assert quantized.zeros.tolist() == [[8]]
    assert quantized.codes.tolist() == [[0, 7, 8, 15]]  # -7.5 rounds to -8; 7.5 to 8, which only 7 stands in for
    assert quantized.dequantize().tolist() == [[-8.0, -1.0, 0.0, 7.0]]


def test_each_group_has_its_own_scale() -> None:
    weight = torch.cat([torch.full((2, 32), 0.15), torch.full((2, 32), 15.0)], dim=1)
    quantized = rtn.quantize(weight, bits=4, group_size=32)
    assert quantized.groups.tolist() == [0] * 32 + [1] * 32
    torch.testing.assert_close(quantized.scales[:, 1].float(), torch.full((2,), 2.0))
    torch.testing.assert_close(quantized.scales[:, 0].float(), torch.full((2,), 0.02), rtol=1e-3, atol=0)


def test_codes_are_chosen_for_the_scale_that_is_stored() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    quantized = rtn.quantize(weight, bits=8, group_size=128)
    exact = quantized.scales.double()
    assert torch.equal(quantized.codes, ((weight.double() / exact).round() + 128).clamp(0, 255).byte())


def test_zeros_come_back_as_zeros() -> None:
    quantized = rtn.quantize(torch.zeros(2, 32), bits=4, group_size=32)
    assert torch.equal(quantized.dequantize(), torch.zeros(2, 32))
    assert torch.isfinite(quantized.scales).all()


def test_a_scale_beyond_fp16_is_refused() -> None:
    with pytest.raises(QuantizationError, match="1e\\+06 needs a scale that fp16 cannot hold"):
        rtn.quantize(torch.full((1, 32), 1e6), bits=4, group_size=32)


def test_a_group_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(QuantizationError, match="48 does not divide the width 64"):
        rtn.quantize(torch.zeros(1, 64), bits=4, group_size=48)
