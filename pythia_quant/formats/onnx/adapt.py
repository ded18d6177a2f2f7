"""Find the tensors that 8 bits do not suit, and store or multiply them more finely.

Outliers in the hidden states leave few steps for the values that share a block with them. A sample of random tokens
shows where they are. If there are any, the artifact is written again, more finely from attempt to attempt, until the
sample's KL divergence, computed as the artifact will be run, is not above that of the source in bf16, which is what
users would run instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pythia_quant.core.precision import exact_products
from pythia_quant.formats.onnx import nodes
from pythia_quant.formats.onnx.head_inputs import random_tokens
from pythia_quant.formats.onnx.nodes import Product
from pythia_quant.formats.onnx.rounding import as_run, excess, excess_of_inputs, finer, in_bfloat16, offset_of, rounded
from pythia_quant.model.architecture import LINEARS, NORM_OF, Architecture
from pythia_quant.model.forward import LayerWeights, linear, update_forward
from pythia_quant.recipe.onnx_variant import BlockSize, Choice, OnnxSettings, TensorSettings

LIMITS = (float("inf"), 24.0, 12.0, 6.0)
"""What a tensor may lose, as a multiple of what bf16 loses in the same place (:func:`rounding.excess`), for one attempt
after another; the first only looks for outliers. Without them, blocks of 64 lose 10 to 35 times as much, which costs
the model as much as bf16 does in all its places; with two terms it is 5 to 7 times. A lower limit would leave little
but fp32."""
OUTLIERS, OUTLIERS_WITHIN = 35.0, 100.0
"""What rounding loses where there are outliers, as a multiple of what rounding to bf16 loses: in embeddings and
normalized inputs, and in what attention and MLP give. Without outliers it is 11 to 30, and 12 to 58."""
NEGLIGIBLE = 1e-4
"""The KL divergence in nats a token that is good enough, whatever bf16's is."""
SAMPLE = (2, 64)
"""The windows of the sample and the tokens in each: random ids, so that no text decides how an artifact is stored."""


def adapts(settings: OnnxSettings, shape: Architecture) -> bool:
    """Return whether tensors of a variant are adapted: all of them have 7 bits or more, and some are integers."""
    linears = (settings.linear_choice(layer, name) for layer in range(shape.layers) for name in LINEARS)
    choices = (settings.head_choice(), settings.embeddings_choice(), *linears)
    return settings.adapt and settings.codes is None and settings.quantizes() and min(c.bits for c in choices) > 4


@dataclass
class Sample:
    """The hidden states of random tokens in fp32 arithmetic, in bf16, and as the artifact will be run.

    Attributes:
        shape: the model's.
        compares: whether the latter two are computed.
        ids: int64 [windows, tokens].
        exact: of the source's weights in fp32, all fp32 [windows, tokens, width].
        halves: of the source in bf16, bf16.
        run: of the artifact.
        inputs: what each linear layer of the layer before read, fp32 [windows, tokens, in].
    """

    shape: Architecture
    compares: bool
    ids: Tensor = field(init=False)
    exact: Tensor = field(init=False)
    halves: Tensor = field(init=False)
    run: Tensor = field(init=False)
    inputs: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.ids = random_tokens(self.shape, *SAMPLE)

    def begin(self, table: Tensor, stored: Tensor) -> None:
        """Start from the tokens' embeddings as they are in the source and in the artifact, [tokens, width]."""
        self.exact = table.float().view(*self.ids.shape, -1)
        self.halves, self.run = self.exact.bfloat16(), stored.view_as(self.exact)

    def before(self, layer: LayerWeights) -> None:
        """Apply a layer of the source, fp32."""

        def recorded(weights: LayerWeights, name: str, inputs: Tensor) -> Tensor:
            self.inputs[name] = inputs
            return linear(weights, name, inputs)

        norms = {name: tensor.bfloat16() for name, tensor in layer.items() if "layernorm" in name}
        with exact_products():
            for update in self.shape.updates:
                self.exact = update_forward(self.shape, layer, update, self.exact, recorded)
                if self.compares:
                    self.halves = update_forward(self.shape, {**layer, **norms}, update, self.halves, in_bfloat16)

    def after(self, layer: LayerWeights, settings: OnnxSettings, index: int) -> None:
        """Apply the same layer as a reader of the artifact will get it."""
        if not self.compares:
            return
        with exact_products():
            for update in self.shape.updates:
                self.run = update_forward(self.shape, layer, update, self.run, as_run(settings, self.shape, index))

    def normed(self, gain: Tensor, bias: Tensor) -> Tensor:
        """Return the exact final hidden states after the final norm, fp32 [windows, tokens, width]."""
        return self._normed(self.exact, gain, bias)

    def divergences(
        self, gain: Tensor, bias: Tensor, choice: Choice, heads: Iterable[tuple[Tensor, Tensor]]
    ) -> tuple[float, float]:
        """Return the mean KL divergences in nats a token, as run and in bf16.

        Args:
            gain: of the final norm, fp32 [width].
            bias: likewise.
            choice: how the head is multiplied.
            heads: some rows of the head after others, as in the source and as a reader will get them.
        """
        exact, run = (self._normed(hidden, gain, bias).flatten(0, 1) for hidden in (self.exact, self.run))
        halves = self._normed(self.halves, gain.bfloat16(), bias.bfloat16()).flatten(0, 1)
        run = rounded(run, choice)
        logits: tuple[list[Tensor], ...] = ([], [], [])
        with exact_products():
            for weight, stored in heads:
                logits[0].append(F.linear(exact, weight.float()))
                logits[1].append(F.linear(halves, weight.bfloat16()).float())
                logits[2].append(F.linear(run, stored))
        expected, *others = (torch.cat(parts, dim=-1).log_softmax(-1) for parts in logits)
        in_bf16, as_run = (float((expected.exp() * (expected - other)).sum(-1).mean()) for other in others)
        return as_run, in_bf16

    def _normed(self, hidden: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(hidden, gain.shape, gain, bias, self.shape.norm_epsilon)


@dataclass
class Adapted:
    """Settings, to which overrides of tensors are added.

    Attributes:
        settings: the settings so far.
        shape: the model's.
        limit: see :data:`LIMITS`.
        notes: for each override, how much the tensor lost before and loses with it, as multiples of what bf16 loses.
        outliers: whether there are outliers in what was seen.
    """

    settings: OnnxSettings
    shape: Architecture
    limit: float
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    outliers: bool = False

    def embeddings(self, rows: Tensor) -> None:
        """Decide how the embedding matrix is stored, by some rows, [tokens, width].

        Every norm that reads a row divides it by its deviation, so rows count alike. No activations multiply them.
        """
        rows = rows.float() / rows.float().std(1, keepdim=True).clamp_min(1e-30)
        unit, choice = torch.eye(rows.shape[1]), self.settings.embeddings_choice()
        self.outliers |= excess(rows, unit, choice) > OUTLIERS
        self._decide({nodes.EMBEDDINGS: (rows, unit)}, choice)

    def layer(self, index: int, layer: LayerWeights, inputs: LayerWeights) -> None:
        """Decide how the linear layers of a layer are stored and multiplied.

        Args:
            index: the layer's.
            layer: its fp32 tensors, equalized.
            inputs: what the sample's exact hidden states give each linear layer to read, fp32 [windows, tokens, in].
        """
        for products in (nodes.inner, nodes.outer):
            for product in products(self.settings, self.shape, index):
                self._product(index, product, layer, inputs)

    def head(self, weight: Tensor, hidden: Tensor) -> None:
        """Decide about the head, by some of its rows and by the exact final hidden states after their norm."""
        self._decide({nodes.HEAD: (weight.float(), hidden.flatten(0, 1))}, self.settings.head_choice())

    def _product(self, index: int, product: Product, layer: LayerWeights, inputs: LayerWeights) -> None:
        offset = offset_of(self.shape, product.members[0]) if len(product.members) == 1 else None
        most = OUTLIERS if product.members[0] in NORM_OF else OUTLIERS_WITHIN
        self.outliers |= max(excess_of_inputs(inputs[name], product.choice, offset) for name in product.members) > most
        if not any(name in self.settings.tensors for name in product.members):
            parts = {name: (layer[f"{name}.weight"], inputs[name].flatten(0, 1)) for name in product.members}
            self._decide({f"layers.{index}.{name}": part for name, part in parts.items()}, product.choice, offset)

    def _decide(self, parts: dict[str, tuple[Tensor, Tensor]], choice: Choice, offset: float | None = None) -> None:
        """Override the settings of tensors that are stored alike, unless the recipe names one of them.

        Args:
            parts: for each key of a tensor its weight, fp32 [out, in], and its inputs, fp32 [tokens, in].
            choice: how they are stored and multiplied so far.
            offset: see :func:`rounding.offset_of`.
        """
        if self.limit == float("inf") or any(key in self.settings.tensors for key in parts):
            return

        def worst(choice: Choice) -> float:
            return max(excess(weight, inputs, choice, offset) for weight, inputs in parts.values())

        before = found = worst(choice)
        chosen = choice
        for candidate in finer(choice, self.settings.block_size):
            if found <= self.limit:
                break
            chosen, found = candidate, worst(candidate)
        if chosen == choice:
            return
        override = TensorSettings(
            weights=chosen.weights,
            block_size=cast(BlockSize, chosen.block_size) if chosen.block_size else None,
            activations=None if chosen.activations == "fp32" else chosen.activations,
        )
        tensors = self.settings.tensors | dict.fromkeys(parts, override)
        self.settings = self.settings.model_copy(update={"tensors": tensors})
        self.notes |= {key: {"loss_before": round(before, 1), "loss": round(found, 1)} for key in parts}
