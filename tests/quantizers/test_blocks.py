"""Blocks of integers: bounds that hold for every weight, and bytes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.quantizers.blocks import Blocks, from_quantized, from_stored, merge, quantize, zeros_from_stored
from pythia_quant.quantizers.grid import Quantized, consecutive_groups

BLOCK_SIZES = (16, 32, 64, 128)


def matrix(seed: int, rows: int, magnitude: int, outliers: float) -> Tensor:
    """Return 256 columns with outliers and blocks of zeros."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 256, generator=generator) * 10.0**magnitude
    large = torch.rand(weight.shape, generator=generator) < outliers
    zeros = torch.rand(rows, 2, generator=generator) < 0.3
    return (weight * torch.where(large, 50, 1)).masked_fill(zeros.repeat_interleave(128, 1), 0)


MATRICES = st.builds(
    matrix, st.integers(0, 2**32), st.integers(1, 8), st.integers(-15, 15), st.sampled_from((0.0, 0.01))
)
every_matrix = given(MATRICES, st.sampled_from(BLOCK_SIZES))
undisturbed = settings(deadline=None, max_examples=50)


@undisturbed
@every_matrix
def test_no_value_moves_more_than_half_a_step(weight: Tensor, block_size: int) -> None:
    blocks = quantize(weight, block_size)
    step = blocks.scales.repeat_interleave(block_size, 1)
    assert ((weight - blocks.dequantize()).abs() <= step / 2 * (1 + 1e-4)).all()
    assert blocks.codes.abs().max() <= 127
    assert blocks.codes.dtype == torch.int8
    assert blocks.scales.shape == (len(weight), 256 // block_size)


@undisturbed
@every_matrix
def test_quantizing_again_changes_nothing(weight: Tensor, block_size: int) -> None:
    once = quantize(weight, block_size).dequantize()
    torch.testing.assert_close(quantize(once, block_size).dequantize(), once, rtol=1e-6, atol=0)


@undisturbed
@every_matrix
def test_chosen_scale_is_never_worse_than_the_largest_value_over_127(weight: Tensor, block_size: int) -> None:
    blocks = weight.double().view(len(weight), -1, block_size)
    scales = (blocks.abs().amax(2, keepdim=True) / 127).clamp_min(1e-300)
    plain = ((blocks / scales).round() * scales - blocks).square().sum(2)
    ours = (quantize(weight, block_size).dequantize() - weight).double().view(blocks.shape).square().sum(2)
    assert (ours <= plain * (1 + 1e-3) + blocks.square().sum(2) * 1e-12).all()


def test_the_scale_search_pays() -> None:
    weight = torch.randn(256, 1024, generator=torch.Generator().manual_seed(0))
    blocks = weight.view(256, -1, 32)
    scales = blocks.abs().amax(2, keepdim=True) / 127
    plain = ((blocks / scales).round() * scales - blocks).square().mean()
    assert (quantize(weight, 32).dequantize() - weight).square().mean() < 0.85 * plain


def test_zeros_stay_zeros() -> None:
    blocks = quantize(torch.zeros(2, 64), 32)
    assert blocks.scales.eq(0).all()
    assert blocks.dequantize().eq(0).all()


@pytest.mark.parametrize("bits", [8, 7, 4])
def test_blocks_of_every_magnitude_of_fp32(bits: int) -> None:
    """Down to its smallest number, half of them in a row with blocks of ordinary size; new memory is never shown."""
    values = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).double()
    exponents = torch.arange(-149, 123)
    weight = torch.cat([torch.ldexp(values, exponent) for exponent in exponents], dim=1).float()
    blocks = quantize(weight, 64, bits)
    assert torch.isfinite(blocks.scales).all()
    found, exact = (tensor.double().view(2, -1, 64) for tensor in (blocks.dequantize(), weight))
    peaks = exact.abs().amax(2)
    moved = (found - exact).abs().amax(2)
    assert (moved[peaks >= 2.0**-119] <= peaks[peaks >= 2.0**-119] * {8: 0.0042, 7: 0.0085, 4: 0.167}[bits]).all()
    assert found[peaks < 2.0**-119].eq(0).all()
    assert blocks.scales[peaks < 2.0**-119].eq(0).all()


def test_stored_bytes_are_offset_by_128_and_come_back() -> None:
    blocks = Blocks(8, torch.arange(-128, 128).to(torch.int8).view(2, 128), torch.ones(2, 4))
    assert torch.equal(blocks.stored().flatten(), torch.arange(256).to(torch.uint8))
    assert torch.equal(from_stored(blocks.stored(), blocks.scales, 8).codes, blocks.codes)


def test_codes_of_4_bits_share_a_byte_low_half_first_and_come_back() -> None:
    blocks = Blocks(4, torch.arange(-8, 8).to(torch.int8).view(1, 16), torch.ones(1, 1))
    assert blocks.stored().tolist() == [[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]]
    assert torch.equal(from_stored(blocks.stored(), blocks.scales, 4).codes, blocks.codes)


@pytest.mark.parametrize(
    ("bits", "zeros", "stored"), [(4, [-7, 0, 7], [[0x81, 0x8F]]), (4, [-7, 7], [[0xF1]]), (8, [-127, 7], [[1, 135]])]
)
def test_zero_points_are_stored_like_codes_and_come_back(bits: int, zeros: list[int], stored: list[list[int]]) -> None:
    """The half byte that is left over holds the middle."""
    count = len(zeros)
    blocks = Blocks(bits, torch.zeros(1, 16 * count).char(), torch.ones(1, count), torch.tensor([zeros]).char())
    found = blocks.stored_zeros()
    assert found is not None
    assert found.tolist() == stored
    assert zeros_from_stored(found, bits, count).tolist() == [zeros]


@pytest.mark.parametrize(("bits", "top"), [(4, 15), (8, 255)])
def test_integers_of_another_format_keep_their_values_and_bytes(bits: int, top: int) -> None:
    codes = torch.arange(top + 1).byte().view(-1, 16)
    scales = torch.full((len(codes), 1), 0.1).half()

    def taken(zero: int) -> tuple[Quantized, Blocks]:
        quantized = Quantized(bits, codes, scales, torch.full_like(scales, zero).byte(), consecutive_groups(16, 16))
        return quantized, from_quantized(quantized)

    middle = taken((top + 1) // 2)[1]
    assert middle.zeros is None
    assert middle.stored_zeros() is None
    for zero in (1, top):
        quantized, blocks = taken(zero)
        assert torch.equal(blocks.dequantize(), quantized.dequantize())
        assert torch.equal(blocks.stored(), middle.stored())
        both = merge([middle, blocks], dim=0)
        assert torch.equal(both.dequantize(), torch.cat((middle.dequantize(), quantized.dequantize())))


@undisturbed
@given(MATRICES, st.sampled_from(((8, -127, 127), (7, -63, 63), (4, -8, 7))))
def test_codes_stay_in_range_and_no_block_is_worse_than_with_the_plain_scale(
    weight: Tensor, bits: tuple[int, int, int]
) -> None:
    width, smallest, largest = bits
    blocks = quantize(weight, 64, width)
    assert blocks.codes.min() >= smallest
    assert blocks.codes.max() <= largest
    exact = weight.double().view(len(weight), -1, 64)
    scales = (exact.abs().amax(2, keepdim=True) / largest).clamp_min(1e-300)
    plain = ((exact / scales).round() * scales - exact).square().sum(2)
    ours = (blocks.dequantize().double().view(exact.shape) - exact).square().sum(2)
    assert (ours <= plain * (1 + 1e-3) + exact.square().sum(2) * 1e-12).all()


def test_dequantized_values_can_take_the_place_of_the_weight() -> None:
    weight = torch.randn(300, 1024, generator=torch.Generator().manual_seed(0))
    expected = quantize(weight, 32).dequantize()
    quantize(weight, 32, into=weight)
    assert torch.equal(weight, expected)


def test_half_precision_is_quantized_as_its_values_in_fp32() -> None:
    weight = torch.randn(300, 1024, generator=torch.Generator().manual_seed(0)).half()
    assert torch.equal(quantize(weight, 32).codes, quantize(weight.float(), 32).codes)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (torch.ones(1, 48), "48 columns"),
        (torch.full((1, 64), torch.inf), "finite"),
        (torch.full((1, 64), 1e38), "large"),
    ],
)
def test_refuses_what_it_cannot_quantize(weight: Tensor, words: str) -> None:
    with pytest.raises(QuantizationError, match=words):
        quantize(weight, 32)
