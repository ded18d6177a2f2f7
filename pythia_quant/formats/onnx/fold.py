"""Rewrite a GPT-NeoX layer as two linear layers, which its parallel residual allows, and back.

Attention and MLP read LayerNorms of the same input, which differ only in gain and bias. With those folded into the
weights that follow, both read one plain normalization, so their first layers merge into one matrix; and since both
results are added to the residual, so do their last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pythia_quant.architecture import Architecture
from pythia_quant.layerwise import LayerWeights


@dataclass(frozen=True)
class FoldedLayer:
    """One layer, all fp32, for width d and MLP width m.

    Attributes:
        inner: [3d + m, d], rows of query, key, value (each head after head) and of dense_h_to_4h.
        inner_bias: [3d + m].
        outer: [d, d + m], columns of dense and of dense_4h_to_h.
        outer_bias: [d], the sum of both biases.
    """

    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    outer_bias: Tensor


def fold(architecture: Architecture, weights: LayerWeights) -> FoldedLayer:
    """Fold and merge one layer's fp32 tensors, named as within the layer."""
    mixed, mixed_bias = _absorb(weights, "input_layernorm", "attention.query_key_value")
    expand, expand_bias = _absorb(weights, "post_attention_layernorm", "mlp.dense_h_to_4h")
    return FoldedLayer(
        inner=torch.cat((separate(mixed, architecture.heads), expand)),
        inner_bias=torch.cat((separate(mixed_bias, architecture.heads), expand_bias)),
        outer=torch.cat((weights["attention.dense.weight"], weights["mlp.dense_4h_to_h.weight"]), dim=1),
        outer_bias=weights["attention.dense.bias"] + weights["mlp.dense_4h_to_h.bias"],
    )


def unfold(architecture: Architecture, folded: FoldedLayer) -> dict[str, Tensor]:
    """Return an equivalent layer under a checkpoint's names: gains are 1, and dense holds the whole outer bias."""
    d, heads = architecture.width, architecture.heads
    ones, zeros = torch.ones(d), torch.zeros(d)
    return {
        "input_layernorm.weight": ones,
        "input_layernorm.bias": zeros,
        "post_attention_layernorm.weight": ones,
        "post_attention_layernorm.bias": zeros,
        "attention.query_key_value.weight": interleave(folded.inner[: 3 * d], heads),
        "attention.query_key_value.bias": interleave(folded.inner_bias[: 3 * d], heads),
        "attention.dense.weight": folded.outer[:, :d],
        "attention.dense.bias": folded.outer_bias,
        "mlp.dense_h_to_4h.weight": folded.inner[3 * d :],
        "mlp.dense_h_to_4h.bias": folded.inner_bias[3 * d :],
        "mlp.dense_4h_to_h.weight": folded.outer[:, d:],
        "mlp.dense_4h_to_h.bias": zeros,
    }


def separate(mixed: Tensor, heads: int) -> Tensor:
    """Reorder rows from query, key, value within each head to all queries, all keys, all values."""
    return mixed.reshape(heads, 3, -1, *mixed.shape[1:]).transpose(0, 1).reshape(mixed.shape)


def interleave(separated: Tensor, heads: int) -> Tensor:
    """Undo :func:`separate`."""
    return separated.reshape(3, heads, -1, *separated.shape[1:]).transpose(0, 1).reshape(separated.shape)


def _absorb(weights: LayerWeights, norm: str, linear: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias of `linear` with the gain and bias of the LayerNorm before it folded in."""
    weight = weights[f"{linear}.weight"]
    return weight * weights[f"{norm}.weight"], weights[f"{linear}.bias"] + weight @ weights[f"{norm}.bias"]
