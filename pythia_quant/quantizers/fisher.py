"""How the model's divergence depends on the outputs of linear layers: Fisher's information, from sampled gradients.

The Hessian of the KL divergence by a weight is about a Kronecker product: the second moments of the inputs, and those
of the gradients at the outputs (YAQA, arXiv 2505.22988). A gradient is that of the log likelihood of a token drawn from
what the model itself predicts, so no text says which token is right.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, Architecture, layer_name
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import Apply, LayerWeights, linear, parts, read_layer, update_forward
from pythia_quant.model.weights import WeightReader

DAMPING = 0.1
"""What is added to the diagonal of the gradients' second moments, relative to its mean: a sample of them is noisy."""

_STATES_AT_ONCE = 256

Outputs = list[list[tuple[Tensor, Tensor]]]
"""For each layer, for each of its updates: the second moments at the outputs of its inner linear layers, below each
other, fp32 [outputs, outputs], and at the sum of its outer ones, fp32 [width, width]; both damped."""


def memory_bytes(shape: Architecture) -> tuple[int, int]:
    """Estimate the memory of the second moments, and of what finding them takes beside: the model and its states."""
    inner, inputs = 3 * shape.width + shape.mlp_width, shape.width + shape.mlp_width
    states = 2048 * 4 * shape.layers * (inner + inputs + shape.width) + 2 * _STATES_AT_ONCE * shape.vocabulary
    return 4 * shape.layers * (inner**2 + shape.width**2), 4 * (shape.parameters + states)


@torch.enable_grad()
def second_moments(source: WeightReader, ids: Tensor) -> Outputs:
    """Return the second moments of the gradients at all outputs that are solved for; the whole model is in memory.

    Args:
        source: the weights; layers are equalized here, as they are before they are solved.
        ids: calibration windows, int64 [windows, tokens].

    Raises:
        QuantizationError: a gradient is not finite.
    """
    shape = source.architecture
    layers = [read_layer(source, index) for index in range(shape.layers)]
    for layer in layers:
        equalize(shape, layer)
    embedding, head = source.read(EMBEDDING).float(), source.read(HEAD).float()
    gain, bias = (source.read(f"{FINAL_NORM}.{part}").float() for part in ("weight", "bias"))
    draw = torch.Generator().manual_seed(0)
    found: Outputs = []
    for rows in parts(*ids.shape):
        hidden = F.embedding(ids[rows], embedding).requires_grad_()
        kept: list[dict[str, Tensor]] = []
        for layer in layers:
            kept.append({})
            for update in shape.updates:
                hidden = update_forward(shape, layer, update, hidden, _keeping(kept[-1]))
        last = F.layer_norm(hidden, (shape.width,), gain, bias, shape.norm_epsilon)
        last.backward(_of_drawn_tokens(last.detach().flatten(0, 1), head, draw).view_as(last))
        _add(found, [[_gradients(each, update.inner, update.outer) for update in shape.updates] for each in kept])
    for index, layer_moments in enumerate(found):
        for moments in (each for pair in layer_moments for each in pair):
            if not moments.isfinite().all():
                raise QuantizationError("gradients are not finite", where=layer_name(index), hint="say fisher: false")
            moments.diagonal().add_(DAMPING * moments.diagonal().mean())
    return found


def _of_drawn_tokens(states: Tensor, head: Tensor, draw: torch.Generator) -> Tensor:
    """Return the gradients of -log p(token) by final states, [tokens, width], for tokens drawn from p."""
    found = []
    for some in states.split(_STATES_AT_ONCE):
        shares = (some @ head.T).softmax(-1)
        sums = shares.cumsum(-1)  # torch.multinomial takes ten times as long
        drawn = torch.rand(len(some), 1, generator=draw) * sums[:, -1:]
        token = torch.searchsorted(sums, drawn, right=True).clamp_(max=len(head) - 1)
        found.append(shares.scatter_add_(1, token, torch.full_like(drawn, -1.0)) @ head)
    return torch.cat(found)


def _keeping(kept: dict[str, Tensor]) -> Apply:
    """Return how a linear layer is applied so that its outputs are kept by its name, with their gradients."""

    def apply(weights: LayerWeights, name: str, inputs: Tensor) -> Tensor:
        kept[name] = linear(weights, name, inputs)
        kept[name].retain_grad()
        return kept[name]

    return apply


def _gradients(kept: dict[str, Tensor], inner: tuple[str, ...], outer: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return the gradients of an update, [tokens, outputs] each; its outer linear layers have the same, as they add."""
    gradients = [kept[name].grad for name in (*inner, outer[0])]
    found = [torch.zeros(0) if gradient is None else gradient.flatten(0, 1) for gradient in gradients]
    return torch.cat(found[:-1], 1), found[-1]


def _add(found: Outputs, gradients: list[list[tuple[Tensor, Tensor]]]) -> None:
    if not found:
        found += [[(_square(inner), _square(outer)) for inner, outer in layer] for layer in gradients]
        return
    for sums, layer in zip(found, gradients, strict=True):
        for pair, each in zip(sums, layer, strict=True):
            for moments, gradient in zip(pair, each, strict=True):
                moments.addmm_(gradient.T, gradient)


def _square(gradient: Tensor) -> Tensor:
    return gradient.T @ gradient
