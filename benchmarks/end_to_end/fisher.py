"""Move codes under a Fisher weight of the whole model's KL, as YAQA rounds (arXiv 2505.22988).

The Hessian of the KL by a linear layer's weight is taken as a Kronecker product: the inputs' second moments, which GPTQ
has, and those of the gradients at its outputs. A gradient is of the log likelihood of a token that is drawn from what
the model predicts, so that its second moments are Fisher's information. Where GPTQ leaves the least squared error of
each output, codes are moved here to leave the least tr(G (T - Q) H (T - Q)ᵀ), so errors of one output make up for
errors of another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from pythia_quant.model.architecture import CONTRACT, DENSE, EMBEDDING, EXPAND, FINAL_NORM, HEAD, MIXED
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import Apply, LayerWeights, linear, read_layer, update_forward
from pythia_quant.model.weights import WeightReader
from pythia_quant.quantizers import refine

_AT_ONCE = 4


def factors(source: WeightReader, ids: Tensor) -> list[Tensor]:
    """Return the second moments of the gradients at the outputs of what is solved at once, in the order of solving.

    Args:
        source: a model whose attention and MLP read the same states.
        ids: calibration windows, int64 [windows, tokens].

    Returns:
        For each layer those of query_key_value and dense_h_to_4h, fp32 [outputs, outputs], and those of the sum of
        dense and dense_4h_to_h, fp32 [width, width].
    """
    shape = source.architecture
    layers = [read_layer(source, index) for index in range(shape.layers)]
    for layer in layers:
        equalize(shape, layer)
    embedding, head = source.read(EMBEDDING).float(), source.read(HEAD).float()
    norm = [source.read(f"{FINAL_NORM}.{part}").float() for part in ("weight", "bias")]
    draw = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    for windows in ids.split(_AT_ONCE):
        hidden = F.embedding(windows, embedding).requires_grad_()
        outputs: list[dict[str, Tensor]] = []
        for layer in layers:
            outputs.append({})
            for update in shape.updates:
                hidden = update_forward(shape, layer, update, hidden, _keeping(outputs[-1]))
        logits = F.layer_norm(hidden, (shape.width,), *norm, shape.norm_epsilon) @ head.T
        drawn = torch.multinomial(logits.detach().softmax(-1).flatten(0, 1), 1, generator=draw)
        F.cross_entropy(logits.flatten(0, 1), drawn[:, 0], reduction="sum").backward()
        for place, layer_outputs in enumerate(outputs):
            for number, names in enumerate(((MIXED, EXPAND), (DENSE,))):
                gradient = torch.cat([_gradient(layer_outputs[name]) for name in names], -1).flatten(0, 1)
                if 2 * place + number == len(found):
                    found.append(torch.zeros(gradient.shape[1], gradient.shape[1]))
                found[2 * place + number].addmm_(gradient.T, gradient)
    return found


def _keeping(outputs: dict[str, Tensor]) -> Apply:
    """Return how a linear layer is applied such that its outputs and their gradients are kept."""

    def apply(weights: LayerWeights, name: str, inputs: Tensor) -> Tensor:
        result = linear(weights, name, inputs)
        result.retain_grad()
        outputs[name if name != CONTRACT else "after"] = result
        return result

    return apply


def _gradient(tensor: Tensor) -> Tensor:
    if tensor.grad is None:
        raise TypeError("the output has no gradient")
    return tensor.grad


@contextmanager
def moving(outputs: list[Tensor], damping: float, sweeps: int) -> Iterator[None]:
    """Let conversions in this process move codes by these factors, each of which `sweeps` calls in a row use.

    Args:
        outputs: see :func:`factors`.
        damping: what is added to a factor's diagonal, relative to its mean.
        sweeps: of the variant.
    """
    plain, calls = refine.move_codes, 0

    def move(target: Tensor, hessian: Tensor, values: Tensor, grid: refine.Rows) -> None:
        nonlocal calls
        factor = outputs[calls // sweeps].clone()
        calls += 1
        factor.diagonal().add_(damping * factor.diagonal().mean())
        move_codes(target, hessian, values, grid, factor)

    refine.move_codes = move
    try:
        yield
    finally:
        refine.move_codes = plain


def move_codes(target: Tensor, hessian: Tensor, values: Tensor, grid: refine.Rows, factor: Tensor) -> None:
    """Move codes in turn to what leaves the least error, see above; arguments as :func:`refine.move_codes`.

    Args:
        target: fp32 [in, out].
        hessian: fp32 [in, in].
        values: fp32 [in, out]; changed in place.
        grid: the grid of each input.
        factor: fp32 [out, out].
    """
    error = values - target
    scale = factor.diagonal()
    for row in range(len(target)):
        levels, curvature = grid.at(row), float(hessian[row, row])
        slope = (hessian[row] @ error) @ factor
        before = values[row].clone()
        for _ in range(len(before)):
            wanted = levels.round(values[row] - slope / (curvature * scale))
            change = wanted - values[row]
            gain = -(2 * slope * change + curvature * scale * change.square())
            best = int(gain.argmax())
            if gain[best] <= 0 or change[best] == 0:
                break
            values[row, best] = wanted[best]
            slope = slope + curvature * change[best] * factor[best]
        error[row] += values[row] - before
