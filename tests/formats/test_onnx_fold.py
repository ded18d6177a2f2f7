"""Folding and merging leave an equivalent layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import TINY, random_weights
from torch import Tensor

from pythia_quant.architecture import Architecture
from pythia_quant.formats.onnx.fold import fold, interleave, separate, unfold
from pythia_quant.layerwise import layer_forward, layer_tensor_names


def layer_of(architecture: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """Return a random layer in fp32."""
    weights = random_weights(architecture, seed)
    return {name: weights[f"gpt_neox.layers.1.{name}"].float() for name in layer_tensor_names(architecture)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_folded_layer_is_equivalent(seed: int, heads: int) -> None:
    shape = replace(TINY, heads=heads)
    layer = layer_of(shape, seed)
    hidden = 3 * torch.randn(2, 9, shape.width, generator=torch.Generator().manual_seed(seed))
    folded = unfold(shape, fold(shape, layer))
    torch.testing.assert_close(
        layer_forward(shape, folded, hidden), layer_forward(shape, layer, hidden), rtol=0, atol=1e-5
    )


def test_unfolding_gives_a_layer_whose_norms_do_nothing() -> None:
    layer = layer_of(TINY)
    unfolded = unfold(TINY, fold(TINY, layer))
    assert {name: tensor.shape for name, tensor in unfolded.items()} == {n: t.shape for n, t in layer.items()}
    assert unfolded["input_layernorm.weight"].eq(1).all()
    assert unfolded["post_attention_layernorm.bias"].eq(0).all()
    again = unfold(TINY, fold(TINY, unfolded))
    assert all(torch.equal(again[name], unfolded[name]) for name in unfolded)


def test_heads_are_separated_in_order() -> None:
    mixed = torch.tensor([f"{part}{head}".encode()[0] * 10 + head for head in range(3) for part in "qkv"])
    separated = separate(mixed, heads=3)
    assert separated.tolist() == [ord(part) * 10 + head for part in "qkv" for head in range(3)]
    assert torch.equal(interleave(separated, heads=3), mixed)
