"""Predict what changes of single tensors cost, from one pass backwards over the search windows.

To second order, the KL divergence of a model whose outputs change is half the mean square of gᵀ δ, where g is the
gradient of the log-probability of a token drawn from the model's own distribution: the mean of g gᵀ is the Fisher
information, which is the second derivative of the divergence (Amari, Neural Computation 10, 1998). For a linear layer
with inputs x whose weight changes by D, δ is D x: this is the Hessian-weighted error D H Dᵀ, weighted by the gradients
of the outputs, as in K-FAC (arXiv 1503.05671), but with each token's own product of both.

The pass goes from the last layer to the first, with the weights of one in memory: states before each are in files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pythia_quant.core.precision import exact_products
from pythia_quant.model.architecture import FINAL_NORM
from pythia_quant.model.forward import LayerWeights, head_weight, linear, normalize, parts, update_forward
from pythia_quant.model.weights import WeightReader
from pythia_quant.tune.alone import equalized_layer
from pythia_quant.tune.effect import Effects

WINDOWS = 16
"""The most search windows that the pass goes over."""
TOKENS = 2048
"""The most tokens of them that keep their inputs and gradients."""


@dataclass(frozen=True)
class Traces:
    """What some tokens give a linear layer to read, and the gradients of its outputs.

    Attributes:
        inputs: fp32 [tokens, in].
        gradients: of the log-probability of drawn tokens, summed over a window, fp32 [tokens, out].
    """

    inputs: Tensor
    gradients: Tensor

    def divergence(self, change: Tensor, shift: Tensor | None = None) -> float:
        """Return the divergence in nats a token by a change of the weight, [out, in], and of the bias, [out]."""
        with exact_products():
            moved = self.inputs @ change.T
        if shift is not None:
            moved += shift
        return 0.5 * float(torch.linalg.vecdot(moved, self.gradients).square().mean())


class Fisher:
    """The pass backwards.

    Args:
        source: the source's weights.
        ids: the search windows, int64 [windows, tokens].
        effects: has the original model's states, prepared.
        seed: of the tokens that are drawn.
    """

    def __init__(self, source: WeightReader, ids: Tensor, effects: Effects, seed: int = 0) -> None:
        self._source, self._shape, self._effects = source, source.architecture, effects
        self._ids = ids[:: -(-len(ids) // WINDOWS)]
        self._rows = range(0, len(ids), -(-len(ids) // WINDOWS))
        self._generator = torch.Generator().manual_seed(seed)
        count = min(TOKENS, self._ids.numel())
        self._kept = torch.randperm(self._ids.numel(), generator=self._generator)[:count].sort().values

    def layers(self) -> Iterator[tuple[int, dict[str, Traces]]]:
        """Go from the last layer to the first; yield the traces of each layer's linear layers by their names.

        The layers are equalized. After the last one, :attr:`embedding` is there.
        """
        shape = self._shape
        gradient = self._after_layers()
        for index in range(shape.layers - 1, -1, -1):
            layer, before = equalized_layer(self._source, index), self._states(index)
            inputs: dict[str, list[Tensor]] = {}
            gradients: dict[str, list[Tensor]] = {}
            for rows in parts(*self._ids.shape):
                outputs: dict[str, tuple[Tensor, Tensor]] = {}
                hidden = before[rows].requires_grad_()
                with torch.enable_grad(), exact_products():
                    after = self._traced(layer, hidden, outputs)
                    wanted = [hidden, *(output for _, output in outputs.values())]
                    # A copy, because what comes back for a sum is this very tensor, and the next line changes it.
                    found = torch.autograd.grad(after, wanted, gradient[rows].clone())
                gradient[rows] = found[0]
                for name, (read, _), slope in zip(outputs, outputs.values(), found[1:], strict=True):
                    inputs.setdefault(name, []).append(read.detach())
                    gradients.setdefault(name, []).append(slope)
            yield index, {name: Traces(self._keep(inputs[name]), self._keep(gradients[name])) for name in inputs}
        self._embedding = gradient

    def embedding(self, change: Tensor) -> float:
        """Return the divergence by a change of the embedding matrix, [vocabulary, width], after :meth:`layers`."""
        moved = F.embedding(self._ids, change)
        return 0.5 * float(torch.linalg.vecdot(moved, self._embedding).square().mean())

    def _traced(self, layer: LayerWeights, hidden: Tensor, outputs: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        def record(weights: LayerWeights, name: str, inputs: Tensor) -> Tensor:
            output = linear(weights, name, inputs)
            outputs[name] = (inputs, output)
            return output

        for update in self._shape.updates:
            hidden = update_forward(self._shape, layer, update, hidden, record)
        return hidden

    def _after_layers(self) -> Tensor:
        """Return the gradients of the states after the last layer, fp32 [windows, tokens, width]."""
        norm = {
            f"{FINAL_NORM}.{part}": self._source.read(f"{FINAL_NORM}.{part}").float() for part in ("weight", "bias")
        }
        head, states = head_weight(self._source), self._states(self._shape.layers)
        gradient = torch.empty_like(states)
        for window, hidden in enumerate(states):
            with torch.enable_grad(), exact_products():
                leaf = hidden.detach().requires_grad_()
                final = normalize(self._shape, norm, FINAL_NORM, leaf)
                likely = (final.detach() @ head.T).softmax(-1)
                drawn = torch.multinomial(likely, 1, generator=self._generator)
                slope = head[drawn[:, 0]] - likely @ head
                (gradient[window],) = torch.autograd.grad(final, leaf, slope)
        return gradient

    def _states(self, index: int) -> Tensor:
        before = self._effects.before(index)
        return torch.cat([before.read(slice(row, row + 1)) for row in self._rows])

    def _keep(self, pieces: list[Tensor]) -> Tensor:
        return torch.cat(pieces).flatten(0, 1)[self._kept]
