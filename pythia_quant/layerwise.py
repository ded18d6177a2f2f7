"""GPT-NeoX in fp32, one layer at a time: only one layer's weights and all windows' hidden states are in memory.

The arithmetic is that of ``GPTNeoXForCausalLM`` in transformers (parallel residual, exact GELU); the tests compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pythia_quant.architecture import EMBEDDING, FINAL_NORM, HEAD, Architecture, layer_name
from pythia_quant.weights import WeightReader

LayerWeights = Mapping[str, Tensor]
"""fp32 tensors of one layer by their names within it, such as ``attention.dense.weight``."""
Observer = Callable[[str, Tensor], None]
"""Called with a linear layer's name within its layer and its inputs, fp32 [windows, tokens, width]."""

_TOKENS_AT_ONCE = 4096


def layer_tensor_names(architecture: Architecture) -> list[str]:
    """Return the names of one layer's tensors within the layer."""
    prefix = f"{layer_name(0)}."
    return [name.removeprefix(prefix) for name in architecture.tensor_shapes() if name.startswith(prefix)]


def read_layer(reader: WeightReader, index: int) -> dict[str, Tensor]:
    """Read one layer's tensors as fp32."""
    return {
        name: reader.read(f"{layer_name(index)}.{name}").float() for name in layer_tensor_names(reader.architecture)
    }


def layer_forward(
    architecture: Architecture, weights: LayerWeights, hidden: Tensor, observe: Observer | None = None
) -> Tensor:
    """Apply one layer.

    Args:
        architecture: the model's shape.
        weights: the layer's tensors, fp32.
        hidden: fp32 [windows, tokens, width].
        observe: sees the inputs of each of the layer's four linear layers.

    Returns:
        fp32 [windows, tokens, width].
    """

    def norm(name: str) -> Tensor:
        gain, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return F.layer_norm(hidden, (architecture.width,), gain, bias, architecture.norm_epsilon)

    def linear(name: str, inputs: Tensor) -> Tensor:
        if observe is not None:
            observe(name, inputs)
        return F.linear(inputs, weights[f"{name}.weight"], weights[f"{name}.bias"])

    mixed = linear("attention.query_key_value", norm("input_layernorm"))
    attended = linear("attention.dense", _attend(architecture, mixed))
    expanded = F.gelu(linear("mlp.dense_h_to_4h", norm("post_attention_layernorm")))
    return hidden + attended + linear("mlp.dense_4h_to_h", expanded)


def _attend(architecture: Architecture, mixed: Tensor) -> Tensor:
    """Causal attention from the fused projection, [windows, tokens, 3 * width], interleaved per head."""
    windows, tokens, _ = mixed.shape
    per_head = mixed.view(windows, tokens, architecture.heads, 3 * architecture.head_size).transpose(1, 2)
    query, key, value = per_head.split(architecture.head_size, dim=-1)
    cosine, sine = _rotary_table(architecture, tokens)
    attended = F.scaled_dot_product_attention(
        _rotate(query, cosine, sine), _rotate(key, cosine, sine), value, is_causal=True
    )
    return attended.transpose(1, 2).reshape(windows, tokens, architecture.width)


def rotary_angles(architecture: Architecture, tokens: int) -> Tensor:
    """Return the rotation angles, fp32 [tokens, rotary_size / 2] (arXiv 2104.09864, half-split layout)."""
    exponents = torch.arange(0, architecture.rotary_size, 2, dtype=torch.float32) / architecture.rotary_size
    return torch.outer(torch.arange(tokens, dtype=torch.float32), 1.0 / architecture.rotary_base**exponents)


@cache
def _rotary_table(architecture: Architecture, tokens: int) -> tuple[Tensor, Tensor]:
    angles = rotary_angles(architecture, tokens).repeat(1, 2)
    return angles.cos(), angles.sin()


def _rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    size = cosine.shape[-1]
    turned, kept = states[..., :size], states[..., size:]
    half = torch.cat((-turned[..., size // 2 :], turned[..., : size // 2]), dim=-1)
    return torch.cat((turned * cosine + half * sine, kept), dim=-1)


class Forward:
    """The hidden states of some windows, advanced one layer at a time by whoever has that layer's weights.

    A converter feeds it the weights it intends, layer by layer, and ends with the logits the artifact must give.

    Args:
        architecture: the model's shape.
        ids: int64 [windows, tokens].
    """

    def __init__(self, architecture: Architecture, ids: Tensor) -> None:
        self.architecture, self.ids = architecture, ids
        self.hidden = torch.empty(0)

    def embed(self, table: Tensor) -> None:
        """Start from the embedding matrix, [vocabulary, width] in any dtype."""
        self.hidden = F.embedding(self.ids, table).float()

    def layer(self, weights: LayerWeights, observe: Observer | None = None, *, advance: bool = True) -> None:
        """Apply one layer to all windows, a few at a time; without `advance` only the observer gains from it."""
        at_once = max(1, _TOKENS_AT_ONCE // self.ids.shape[1])
        for start in range(0, len(self.hidden), at_once):
            rows = slice(start, start + at_once)
            result = layer_forward(self.architecture, weights, self.hidden[rows], observe)
            if advance:
                self.hidden[rows] = result

    def finish(self, gain: Tensor, bias: Tensor) -> Tensor:
        """Apply the final LayerNorm and return the final hidden states, fp32 [windows, tokens, width]."""
        width = (self.architecture.width,)
        return F.layer_norm(self.hidden, width, gain.float(), bias.float(), self.architecture.norm_epsilon)


@torch.no_grad()
def final_hidden_states(reader: WeightReader, ids: Tensor, advanced: Callable[[], None] = lambda: None) -> Tensor:
    """Run all windows through the model and return the final hidden states, of which the head makes logits.

    Args:
        reader: the weights.
        ids: int64 [windows, tokens].
        advanced: called after each layer.

    Returns:
        fp32 [windows, tokens, width].
    """
    forward = Forward(reader.architecture, ids)
    forward.embed(reader.read(EMBEDDING))
    for index in range(reader.architecture.layers):
        forward.layer(read_layer(reader, index))
        advanced()
    return forward.finish(reader.read(f"{FINAL_NORM}.weight"), reader.read(f"{FINAL_NORM}.bias"))


def head_weight(reader: WeightReader) -> Tensor:
    """Read the head as fp32 [vocabulary, width]."""
    return reader.read(HEAD).float()
