"""The bits of GPTQ version 1: words computed by hand, and every value back."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pythia_quant.formats.gptq.packing import PARTS, pack, packed_layout, unpack
from pythia_quant.quantizers.grid import Quantized


def example(codes: torch.Tensor, group_size: int, zero: int = 8, bits: int = 4) -> Quantized:
    out, width = codes.shape
    return Quantized(
        bits=bits,
        codes=codes,
        scales=torch.rand(out, width // group_size).half(),
        zeros=torch.full((out, width // group_size), zero, dtype=torch.uint8),
        groups=torch.arange(width, dtype=torch.int32) // group_size,
    )


def test_a_word_by_hand() -> None:
    """Eight inputs fill one word, the first in its lowest four bits."""
    codes = torch.zeros(8, 8, dtype=torch.uint8)
    codes[0] = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8])
    codes[1] = torch.tensor([15, 0, 0, 0, 0, 0, 0, 15])
    words = pack(example(codes, group_size=8))["qweight"]
    assert words.shape == (1, 8)
    assert words[0, :2].tolist() == [0x87654321 - 2**32, 0xF000000F - 2**32]


def test_three_bits_run_on_across_words() -> None:
    """32 codes fill three words: the eleventh has two bits in the first word and its highest in the second."""
    codes = torch.zeros(32, 32, dtype=torch.uint8)
    codes[0, [0, 10, 21, 31]] = torch.tensor([5, 6, 3, 7], dtype=torch.uint8)
    words = pack(example(codes, group_size=32, zero=4, bits=3))["qweight"]
    assert words.shape == (3, 32)
    stream = 5 | 6 << 30 | 3 << 63 | 7 << 93
    expected = [stream >> (32 * word) & (2**32 - 1) for word in range(3)]
    assert [word % 2**32 for word in words[:, 0].tolist()] == expected


def test_symmetric_zero_points_are_sevens() -> None:
    zeros = pack(example(torch.zeros(16, 64, dtype=torch.uint8), group_size=32))["qzeros"]
    assert zeros.shape == (2, 2)
    assert set(zeros.flatten().tolist()) == {0x77777777}


@given(
    seed=st.integers(0, 2**32),
    bits=st.sampled_from([2, 3, 4, 8]),
    out=st.integers(1, 3),
    groups=st.integers(1, 4),
    data=st.data(),
)
def test_unpack_returns_what_was_packed(seed: int, bits: int, out: int, groups: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (32 * out, 32 * groups), dtype=torch.uint8, generator=generator)
    quantized = example(codes, group_size=32, zero=data.draw(st.integers(1, 2**bits - 1)), bits=bits)
    parts = pack(quantized)
    assert tuple(parts) == PARTS
    layout = packed_layout(tuple(codes.shape), bits, 32)
    assert {part: (tuple(tensor.shape), tensor.dtype) for part, tensor in parts.items()} == layout
    returned = unpack(parts, bits)
    for field in ("codes", "scales", "zeros", "groups"):
        assert torch.equal(getattr(returned, field), getattr(quantized, field))
