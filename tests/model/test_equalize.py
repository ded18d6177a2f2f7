"""Scaling channels and reordering rows leave an equivalent layer, and make outliers harmless."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx_models import PROBE, SHAPE, convert, outlier_channels, source
from tiny import TINY, random_weights
from torch import Tensor

from pythia_quant.artifacts.check import mean_kl
from pythia_quant.formats.onnx.rotary import interleave, separate
from pythia_quant.formats.onnx.runtime import open_runtime
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import final_hidden_states, head_weight, layer_forward, layer_tensor_names


def layer_of(architecture: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """Return a random layer in fp32."""
    weights = random_weights(architecture, seed)
    return {name: weights[f"gpt_neox.layers.1.{name}"].float() for name in layer_tensor_names(architecture)}


def equalized(architecture: Architecture, layer: dict[str, Tensor]) -> dict[str, Tensor]:
    copy = {name: tensor.clone() for name, tensor in layer.items()}
    equalize(architecture, copy)
    return copy


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("parallel", [True, False])
def test_equalized_layer_is_equivalent(seed: int, heads: int, *, parallel: bool) -> None:
    shape = replace(TINY, heads=heads, parallel_residual=parallel)
    layer = layer_of(shape, seed)
    hidden = 3 * torch.randn(2, 9, shape.width, generator=torch.Generator().manual_seed(seed))
    expected = layer_forward(shape, layer, hidden)
    torch.testing.assert_close(layer_forward(shape, equalized(shape, layer), hidden), expected, rtol=0, atol=1e-5)


def test_channels_without_a_reader_or_a_writer_stay_finite() -> None:
    layer = layer_of(TINY)
    layer["attention.dense.weight"][:, 3] = 0
    layer["attention.query_key_value.weight"][2 * 32 + 5] = 0
    layer["attention.query_key_value.bias"][2 * 32 + 5] = 0
    layer["input_layernorm.weight"][7] = layer["post_attention_layernorm.weight"][7] = 0
    assert all(torch.isfinite(tensor).all() for tensor in equalized(TINY, layer).values())


@pytest.mark.parametrize("magnitude", [1e-45, 1e-40, 1e-30, 1e25])
def test_channels_whose_norm_fp32_cannot_hold_stay_as_they_are(magnitude: float) -> None:
    layer = layer_of(TINY)
    layer["attention.dense.weight"][:, 3] = magnitude
    layer["attention.query_key_value.weight"][2 * 32 + 5] = magnitude
    done = equalized(TINY, layer)
    assert all(torch.isfinite(tensor).all() for tensor in done.values())
    assert torch.equal(done["attention.dense.weight"][:, 3], layer["attention.dense.weight"][:, 3])


def test_norms_and_columns_are_even_afterwards() -> None:
    layer = equalized(TINY, layer_of(TINY))
    mixed, expand = layer["attention.query_key_value.weight"], layer["mlp.dense_h_to_4h.weight"]
    norms = torch.cat((mixed, expand)).norm(dim=0)
    torch.testing.assert_close(norms, norms.mean().expand_as(norms))
    read = mixed * layer["input_layernorm.weight"]
    values = torch.cat((read, layer["attention.query_key_value.bias"][:, None]), 1).view(2, 3, 32, -1)[:, 2]
    torch.testing.assert_close(values.norm(dim=2).flatten(), layer["attention.dense.weight"].norm(dim=0))
    assert layer["input_layernorm.bias"].eq(0).all()
    assert torch.equal(layer["input_layernorm.weight"], layer["post_attention_layernorm.weight"])


def test_sequential_layers_keep_a_gain_for_each_norm_and_both_biases() -> None:
    shape = replace(TINY, parallel_residual=False)
    original = layer_of(shape)
    layer = equalized(shape, original)
    for linear, norm in (("attention.query_key_value", "input"), ("mlp.dense_h_to_4h", "post_attention")):
        weight, gain = layer[f"{linear}.weight"], layer[f"{norm}_layernorm.weight"]
        torch.testing.assert_close(weight.norm(dim=0), weight.norm(dim=0).mean().expand_as(gain))
        assert layer[f"{norm}_layernorm.bias"].eq(0).all()
    folded = original["mlp.dense_h_to_4h.weight"] * original["post_attention_layernorm.weight"]
    torch.testing.assert_close(layer["mlp.dense_h_to_4h.weight"] * layer["post_attention_layernorm.weight"], folded)
    assert not torch.allclose(layer["input_layernorm.weight"], layer["post_attention_layernorm.weight"], rtol=0.01)
    for bias in ("attention.dense.bias", "mlp.dense_4h_to_h.bias"):
        assert torch.equal(layer[bias], original[bias])


def test_scaled_value_channels_make_the_same_layer() -> None:
    tensors = random_weights(TINY)
    prefix = "gpt_neox.layers.1."

    def layer(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: weights[prefix + name].float() for name in layer_tensor_names(TINY)}

    plain, scaled = (equalized(TINY, layer(each)) for each in (tensors, outlier_channels(TINY, tensors)))
    assert all(torch.allclose(plain[name], scaled[name], rtol=1e-5, atol=1e-7) for name in plain)


@pytest.mark.parametrize(
    "settings",
    [{"activations": "int8"}, {"activations": "int8", "weights": "int8-channel"}],
    ids=["blocks", "channels"],
)
def test_outlier_channels_cost_nothing(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The value channels of a model x 32, the columns of dense that read them ÷ 32: the same model, hard to round."""
    tensors = random_weights(SHAPE, scale=0.64 / SHAPE.width**0.5)

    def divergence(name: str, weights: dict[str, Tensor]) -> float:
        checkpoint = source(tmp_path / name, tensors=weights)
        convert(checkpoint, tmp_path / f"{name} artifact", **settings)
        expected = final_hidden_states(checkpoint, PROBE) @ head_weight(checkpoint).T
        return mean_kl(expected, open_runtime(tmp_path / f"{name} artifact", threads=1).logits(PROBE))

    plain, scaled = divergence("plain", tensors), divergence("scaled", outlier_channels(SHAPE, tensors))
    assert scaled == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize(("head_size", "rotary_size"), [(32, 8), (64, 16), (80, 20), (128, 32), (256, 64), (96, 24)])
def test_rows_are_separated_in_order_and_come_back(head_size: int, rotary_size: int) -> None:
    shape = replace(TINY, width=3 * head_size, heads=3, rotary_size=rotary_size)
    part = torch.arange(9).repeat_interleave(head_size) % 3
    head = torch.arange(3).repeat_interleave(3 * head_size)
    channel = torch.arange(head_size).repeat(9)
    rows = separate(torch.stack((part, head, channel), dim=1), shape)
    assert rows[:, 0].tolist() == [p for p in range(3) for _ in range(shape.width)]
    assert rows[:, 1].tolist() == 3 * [h for h in range(3) for _ in range(head_size)]
    query, value = rows[:head_size, 2], rows[2 * shape.width :][:head_size, 2]
    assert value.tolist() == list(range(head_size))
    half, pairs = rotary_size // 2, -(-rotary_size // 16) * 8
    assert torch.equal(query[pairs : pairs + half], query[:half] + half)
    assert sorted(query.tolist()) == list(range(head_size))
    assert torch.equal(interleave(rows, shape), torch.stack((part, head, channel), dim=1))
