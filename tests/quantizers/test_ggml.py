"""The types of ggml against the gguf package, blocks computed by hand, and bounds that hold for every weight."""

from __future__ import annotations

from itertools import product

import gguf
import pytest
import torch
from gguf.quants import dequantize as reference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.quantizers import ggml
from pythia_quant.quantizers.ggml import TYPES, Packed
from pythia_quant.quantizers.ggml_bytes import FLOATS, pack, unpack
from pythia_quant.quantizers.grid import Quantized, consecutive_groups

BLOCKS = sorted(set(TYPES) - set(FLOATS))
undisturbed = settings(deadline=None, max_examples=10)


def matrix(seed: int, rows: int, magnitude: int, outliers: float) -> Tensor:
    """Return 512 columns with outliers, a block of zeros, and one of equal values."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 512, generator=generator) * 10.0**magnitude
    weight *= torch.where(torch.rand(weight.shape, generator=generator) < outliers, 20, 1)
    weight[0, :256] = 0
    weight[-1, 256:] = weight[-1, 256].clone()
    return weight


MATRICES = st.builds(matrix, st.integers(0, 2**32), st.integers(1, 6), st.integers(-4, 2), st.sampled_from((0.0, 0.02)))


def random_bytes(name: str, rows: int = 5, blocks: int = 3) -> Packed:
    generator = torch.Generator().manual_seed(len(name))
    return Packed(name, torch.randint(0, 256, (rows, blocks * TYPES[name].size), generator=generator).byte())


def error(packed: Packed, weight: Tensor, importance: Tensor | None = None) -> Tensor:
    squares = (packed.dequantize().double() - weight).square()
    return (squares if importance is None else squares * importance).view(-1, TYPES[packed.type].block).sum(1)


@pytest.mark.parametrize("name", TYPES)
def test_sizes_and_numbers_are_those_of_ggml(name: str) -> None:
    number = gguf.GGMLQuantizationType[name.upper()]
    assert (number.value, *gguf.GGML_QUANT_SIZES[number]) == (TYPES[name].code, TYPES[name].block, TYPES[name].size)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the gguf package, for infinite scales
def test_any_bytes_mean_what_the_gguf_package_says(name: str) -> None:
    packed = random_bytes(name)
    ours, theirs = (
        packed.dequantize(),
        torch.from_numpy(reference(packed.data.numpy(), gguf.GGMLQuantizationType[name.upper()])),
    )
    assert ((ours.view(torch.int32) == theirs.view(torch.int32)) | (ours.isnan() & theirs.isnan())).all()


@pytest.mark.parametrize("name", BLOCKS)
def test_packing_undoes_unpacking(name: str) -> None:
    data = random_bytes(name).data.view(-1, TYPES[name].size)
    assert torch.equal(pack(name, unpack(name, data)), data)


def test_blocks_by_hand() -> None:
    half = torch.tensor([0.5, -2.0], dtype=torch.float16).view(torch.uint8).tolist()
    half, minimum = half[:2], half[2:]
    codes = [0x21, *[0] * 15]  # code 1 is the first of the block, code 2 the one in the middle

    def first_and_middle(name: str, data: list[int], middle: int = 16) -> list[float]:
        values = Packed(name, torch.tensor([data], dtype=torch.uint8)).dequantize()[0]
        return [float(values[0]), float(values[middle])]

    assert first_and_middle("q4_0", [*half, *codes]) == [0.5 * (1 - 8), 0.5 * (2 - 8)]
    assert first_and_middle("q4_1", [*half, *minimum, *codes]) == [0.5 - 2, 0.5 * 2 - 2]
    high = [1, 0, 1, 0]  # the fifth bit of the first and the middle code
    assert first_and_middle("q5_0", [*half, *high, *codes]) == [0.5 * (17 - 16), 0.5 * (18 - 16)]
    assert first_and_middle("q5_1", [*half, *minimum, *high, *codes]) == [0.5 * 17 - 2, 0.5 * 18 - 2]
    assert first_and_middle("q8_0", [*half, 255, *[0] * 15, 3, *[0] * 15]) == [-0.5, 1.5]
    # Scale 3 and minimum 5 of the first group, 7 and 9 of the second.
    scales = [3, 7, 0, 0, 5, 9, 0, 0, 0, 0, 0, 0]
    codes += [0] * 112
    assert first_and_middle("q4_k", [*half, *minimum, *scales, *codes], 32) == [1.5 + 10, 3.5 * 2 + 18]
    high = [0b11, *[0] * 31]
    assert first_and_middle("q5_k", [*half, *minimum, *scales, *high, *codes], 32) == [1.5 * 17 + 10, 3.5 * 18 + 18]
    high = [0b100011, *[0] * 63]  # two bits each of the first code, of the 33rd, of the 65th
    groups = [3, 0, 0, 0, 256 - 7, *[0] * 11]
    assert first_and_middle("q6_k", [*codes, *high, *groups, *half], 64) == [1.5 * (49 - 32), -3.5 * (34 - 32)]


@pytest.mark.parametrize("name", FLOATS)
def test_a_float_type_is_a_cast(name: str) -> None:
    weight = matrix(0, 4, 0, 0.1)
    assert torch.equal(ggml.quantize(weight, name).dequantize(), weight.to(FLOATS[name]).float())


@pytest.mark.parametrize("name", TYPES)
def test_rows_and_columns_are_those_of_the_matrix(name: str) -> None:
    packed = ggml.quantize(matrix(1, 6, 0, 0.1), name)
    whole = packed.dequantize()
    assert torch.equal(packed.dequantize(slice(1, 3)), whole[1:3])
    assert torch.equal(packed.rows(slice(1, 3)).dequantize(), whole[1:3])
    assert torch.equal(packed.columns(slice(256, 512)).dequantize(), whole[:, 256:])
    assert torch.equal(packed.columns(slice(0, 256)).rows(slice(2, 4)).dequantize(), whole[2:4, :256])
    assert torch.equal(packed.arranged(lambda rows: rows.flip(0)).dequantize(), whole.flip(0))


@pytest.mark.parametrize("name", ["q4_0", "q6_k"])
def test_columns_of_half_a_block_are_refused(name: str) -> None:
    with pytest.raises(QuantizationError, match=f"the columns 0 to 16 are not whole blocks of {name}"):
        random_bytes(name).columns(slice(0, 16))


def plain(weight: Tensor, name: str) -> Tensor:
    """Return the squared error of each block with the range of the weights as the grid, as far as fp16 holds that."""
    kind = TYPES[name]
    blocks = weight.view(-1, kind.block)
    top = 2**kind.bits - 1
    if kind.zero is None:
        low = blocks.amin(1, keepdim=True).half().float()
        scale = ((blocks.amax(1, keepdim=True) - low) / top).half().float().clamp_min(2.0**-24)
        values = torch.round((blocks - low) / scale).clamp(0, top) * scale + low
    else:
        scale = blocks.gather(1, blocks.abs().argmax(1, keepdim=True)) / -kind.zero
        scale = torch.where(scale.half() == 0, 2.0**-24, scale).half().float()
        values = torch.round(blocks / scale).clamp(-kind.zero, top - kind.zero) * scale
    squares: Tensor = (values.double() - blocks).square()
    return squares.sum(1)


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
@undisturbed
@given(MATRICES)
@example(matrix(69539, 1, -1, 0.0))
def test_no_block_is_worse_than_with_the_range_of_its_weights(name: str, weight: Tensor) -> None:
    """But for blocks of equal weights: which grid is next to their value is chance, within fp16's rounding."""
    bound = plain(weight, name)
    least = 32 * (weight.abs().amax() * 2.0**-12) ** 2  # half of the last place of a scale or minimum in fp16
    assert (error(ggml.quantize(weight, name), weight) <= bound * 1.02 + least).all()


@pytest.mark.parametrize(("name", "simple"), [("q4_k", "q4_1"), ("q5_k", "q5_1"), ("q6_k", "q5_0")])
@undisturbed
@given(st.integers(0, 2**32))
def test_small_integers_as_scales_cost_little(name: str, simple: str, seed: int) -> None:
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(seed))
    ours = error(ggml.quantize(weight, name), weight).sum()
    free = error(ggml.quantize(weight, simple), weight).sum()
    assert ours < free * (0.3 if name == "q6_k" else 1.12)


@pytest.mark.parametrize("name", BLOCKS)
def test_importance_lowers_the_error_that_it_weights(name: str) -> None:
    weight = matrix(3, 16, -2, 0.01)
    importance = torch.rand(512, generator=torch.Generator().manual_seed(0)) ** 4
    weighted, even = (error(ggml.quantize(weight, name, i), weight, importance).sum() for i in (importance, None))
    assert weighted < 0.97 * even


@pytest.mark.parametrize(("bits", "group_size"), list(product((4, 5, 8), (32, 64, 128))))
def test_symmetric_integers_are_stored_as_they_are(bits: int, group_size: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    shape = (6, 256 // group_size)
    quantized = Quantized(
        bits,
        torch.randint(0, 2**bits, (6, 256), generator=generator).byte(),
        torch.rand(shape, generator=generator).half(),
        torch.full(shape, 2 ** (bits - 1), dtype=torch.uint8),
        consecutive_groups(256, group_size),
    )
    packed = ggml.from_quantized(quantized, f"q{bits}_0")
    assert torch.equal(packed.dequantize(), quantized.dequantize())


def test_integers_that_do_not_fit_are_refused() -> None:
    codes = torch.zeros(2, 64, dtype=torch.uint8)
    middle = torch.full((2, 2), 8, dtype=torch.uint8)
    scales, groups = torch.ones(2, 2).half(), consecutive_groups(64, 32)
    for quantized, name, message in (
        (Quantized(3, codes, scales, middle, groups), "q4_0", "codes of 3 bits do not fit q4_0"),
        (Quantized(4, codes, scales, middle, groups), "q8_0", "codes of 4 bits do not fit q8_0"),
        (Quantized(4, codes, scales, middle - 1, groups), "q4_0", "zero points"),
        (Quantized(4, codes, scales, middle, groups.flip(0)[torch.randperm(64)]), "q4_0", "these groups are others"),
        (Quantized(4, codes[:, :48], scales, middle, groups[:48]), "q4_0", "these groups are others"),
    ):
        with pytest.raises(QuantizationError, match=message):
            ggml.from_quantized(quantized, name)


@pytest.mark.parametrize("name", TYPES)
def test_what_a_type_cannot_hold_is_refused(name: str) -> None:
    weight = torch.ones(2, 256)
    weight[1, 7] = torch.nan
    with pytest.raises(QuantizationError, match="not finite"):
        ggml.quantize(weight, name)
    if TYPES[name].block > 1:
        with pytest.raises(QuantizationError, match=r"do not divide 100 columns"):
            ggml.quantize(torch.ones(2, 100), name)
        with pytest.raises(QuantizationError, match="fp16 cannot hold"):
            ggml.quantize(torch.randn(2, 256) * 1e12, name)
    elif name == "f16":
        with pytest.raises(QuantizationError, match="too large"):
            ggml.quantize(torch.full((2, 2), 1e5), name)
