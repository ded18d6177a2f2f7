"""GPT-NeoX in fp32, one layer at a time: only one layer's weights and all windows' hidden states are in memory.

The arithmetic is that of ``GPTNeoXForCausalLM`` in transformers; the tests compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pythia_quant.core.precision import exact_products
from pythia_quant.model.architecture import (  # fmt: skip
    CONTRACT,
    DENSE,
    EMBEDDING,
    EXPAND,
    FINAL_NORM,
    HEAD,
    MIXED,
    NORM_OF,
    Architecture,
    Update,
    layer_name,
)
from pythia_quant.model.weights import WeightReader

LayerWeights = Mapping[str, Tensor]
"""fp32 tensors of one layer by their names within it, such as ``attention.dense.weight``."""

_TOKENS_AT_ONCE = 2048  # more, and libc returns the memory of temporaries to the system each time


def layer_tensor_names(architecture: Architecture) -> list[str]:
    """Return the names of one layer's tensors within the layer."""
    prefix = f"{layer_name(0)}."
    return [name.removeprefix(prefix) for name in architecture.tensor_shapes() if name.startswith(prefix)]


def read_layer(reader: WeightReader, index: int) -> dict[str, Tensor]:
    """Read one layer's tensors as fp32."""
    return {
        name: reader.read(f"{layer_name(index)}.{name}").float() for name in layer_tensor_names(reader.architecture)
    }


def normalize(architecture: Architecture, weights: LayerWeights, name: str, hidden: Tensor) -> Tensor:
    """Apply one of a layer's two norms, ``input_layernorm`` or ``post_attention_layernorm``."""
    gain, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return F.layer_norm(hidden, (architecture.width,), gain, bias, architecture.norm_epsilon)


def linear(weights: LayerWeights, name: str, inputs: Tensor) -> Tensor:
    """Apply one of a layer's four linear layers, in the dtype of its weight; the result is fp32."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return F.linear(inputs.to(weight.dtype), weight, bias.to(weight.dtype)).float()


Apply = Callable[[LayerWeights, str, Tensor], Tensor]
"""How a linear layer is applied: a function such as :func:`linear`, perhaps one that rounds."""


def attend(architecture: Architecture, weights: LayerWeights, hidden: Tensor, apply: Apply = linear) -> Tensor:
    """Return what ``attention.dense`` reads, fp32 [windows, tokens, width]."""
    return _attend(architecture, apply(weights, MIXED, normalize(architecture, weights, NORM_OF[MIXED], hidden)))


def expand(architecture: Architecture, weights: LayerWeights, hidden: Tensor, apply: Apply = linear) -> Tensor:
    """Return what ``mlp.dense_4h_to_h`` reads, fp32 [windows, tokens, MLP width]."""
    normed = normalize(architecture, weights, NORM_OF[EXPAND], hidden)
    return activate(architecture, apply(weights, EXPAND, normed))


def activate(architecture: Architecture, inputs: Tensor) -> Tensor:
    """Apply the MLP's function, see :data:`pythia_quant.model.architecture.Activation`."""
    if architecture.activation == "relu":
        return F.relu(inputs)
    return F.gelu(inputs, approximate="none" if architecture.activation == "gelu" else "tanh")


def layer_forward(architecture: Architecture, weights: LayerWeights, hidden: Tensor) -> Tensor:
    """Apply one layer.

    Args:
        architecture: the model's shape.
        weights: the layer's tensors, fp32.
        hidden: fp32 [windows, tokens, width].

    Returns:
        fp32 [windows, tokens, width].
    """
    for update in architecture.updates:
        hidden = update_forward(architecture, weights, update, hidden)
    return hidden


def update_forward(
    architecture: Architecture, weights: LayerWeights, update: Update, hidden: Tensor, apply: Apply = linear
) -> Tensor:
    """Apply one update of a layer, and `apply` each linear layer; see :func:`layer_forward`."""
    after = hidden
    for name in update.outer:
        after = after + apply(weights, name, outer_input(architecture, weights, name, hidden, apply))
    return after


def outer_input(
    architecture: Architecture, weights: LayerWeights, name: str, hidden: Tensor, apply: Apply = linear
) -> Tensor:
    """Return what one of the two linear layers whose results are added reads, of the hidden states before it."""
    return {DENSE: attend, CONTRACT: expand}[name](architecture, weights, hidden, apply)


def _attend(architecture: Architecture, mixed: Tensor) -> Tensor:
    """Causal attention from the fused projection, [windows, tokens, 3 * width], interleaved per head."""
    windows, tokens, _ = mixed.shape
    per_head = mixed.view(windows, tokens, architecture.heads, 3 * architecture.head_size).transpose(1, 2)
    query, key, value = per_head.split(architecture.head_size, dim=-1)
    cosine, sine = (table.to(mixed) for table in _rotary_table(architecture, tokens))
    attended = F.scaled_dot_product_attention(
        _rotate(query, cosine, sine), _rotate(key, cosine, sine), value, is_causal=True
    )
    return attended.transpose(1, 2).reshape(windows, tokens, architecture.width)


def rotary_angles(architecture: Architecture, tokens: int) -> Tensor:
    """Return the rotation angles, fp32 [tokens, rotary_size / 2] (arXiv 2104.09864, half-split layout)."""
    exponents = torch.arange(0, architecture.rotary_size, 2, dtype=torch.float32) / architecture.rotary_size
    frequencies = 1.0 / architecture.rotary_base**exponents
    if architecture.rope_scaling and architecture.rope_scaling.kind == "linear":
        frequencies /= architecture.rope_scaling.factor
    return torch.outer(torch.arange(tokens, dtype=torch.float32), frequencies)


@cache
def _rotary_table(architecture: Architecture, tokens: int) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(mode=False):  # of a table that is made in this mode, no gradient could be taken later
        angles = rotary_angles(architecture, tokens).repeat(1, 2)
        return angles.cos(), angles.sin()


def _rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    size = cosine.shape[-1]
    rotary, rest = states[..., :size], states[..., size:]
    half = torch.cat((-rotary[..., size // 2 :], rotary[..., : size // 2]), dim=-1)
    return torch.cat((rotary * cosine + half * sine, rest), dim=-1)


def parts(windows: int, tokens: int) -> list[slice]:
    """Cut windows into parts that are run at once: their temporaries are what takes memory."""
    at_once = max(1, _TOKENS_AT_ONCE // tokens)
    return [slice(start, start + at_once) for start in range(0, windows, at_once)]


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

    def layer(self, weights: LayerWeights) -> None:
        """Apply one layer to all windows, a few at a time."""
        with exact_products():
            for rows in parts(*self.ids.shape):
                self.hidden[rows] = layer_forward(self.architecture, weights, self.hidden[rows])

    def finish(self, gain: Tensor, bias: Tensor) -> Tensor:
        """Apply the final LayerNorm and return the final hidden states, fp32 [windows, tokens, width]."""
        width = (self.architecture.width,)
        return F.layer_norm(self.hidden, width, gain.float(), bias.float(), self.architecture.norm_epsilon)


@torch.no_grad()
def final_hidden_states(reader: WeightReader, ids: Tensor) -> Tensor:
    """Run all windows through the model and return the final hidden states, of which the head makes logits.

    Args:
        reader: the weights.
        ids: int64 [windows, tokens].

    Returns:
        fp32 [windows, tokens, width].
    """
    forward = Forward(reader.architecture, ids)
    forward.embed(reader.read(EMBEDDING))
    for index in range(reader.architecture.layers):
        forward.layer(read_layer(reader, index))
    return forward.finish(reader.read(f"{FINAL_NORM}.weight"), reader.read(f"{FINAL_NORM}.bias"))


def head_weight(reader: WeightReader) -> Tensor:
    """Read the head as fp32 [vocabulary, width]."""
    return reader.read(HEAD).float()


class Fp32Layers:
    """A model's weights in fp32 arithmetic, in stages; see :class:`pythia_quant.runtimes.protocol.Layered`.

    Args:
        reader: the weights.
    """

    def __init__(self, reader: WeightReader) -> None:
        self._reader, self._architecture = reader, reader.architecture
        self.description, self.dtype = "fp32 arithmetic, layer by layer", torch.float32
        self.width, self.stages = reader.architecture.width, reader.architecture.layers + 1

    def embedding(self) -> Callable[[Tensor], Tensor]:
        """Load the embedding matrix."""
        table = self._reader.read(EMBEDDING)
        return lambda ids: F.embedding(ids, table).float()

    def stage(self, index: int) -> Callable[[Tensor], Tensor]:
        """Load a layer or, after the last, the final norm."""
        if index == self.stages - 1:
            names = (f"{FINAL_NORM}.weight", f"{FINAL_NORM}.bias")
            norm = {name: self._reader.read(name).float() for name in names}
            return lambda hidden: normalize(self._architecture, norm, FINAL_NORM, hidden)
        weights = read_layer(self._reader, index)

        def run(hidden: Tensor) -> Tensor:
            with exact_products():
                return layer_forward(self._architecture, weights, hidden)

        return run

    def head(self) -> Callable[[Tensor], Tensor]:
        """Load the head. What it returns gives logits that last until its next call.

        They share one buffer: the first touch of 100 MB of new memory takes longer than the product that fills it.
        """
        weight, buffer = head_weight(self._reader), torch.empty(0)

        def run(hidden: Tensor) -> Tensor:
            with exact_products():
                return torch.matmul(hidden, weight.T, out=buffer.resize_(0))  # keeps the memory

        return run
