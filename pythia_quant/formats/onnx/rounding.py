"""What the products of the graph lose by rounding, emulated, and finer ways to store and multiply a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast, get_args

import torch.nn.functional as F
from torch import Tensor

from pythia_quant.formats.onnx import nodes, token_tables
from pythia_quant.model.architecture import CONTRACT, Architecture
from pythia_quant.model.forward import Apply, LayerWeights, linear
from pythia_quant.recipe.onnx_variant import BlockSize, Choice, OnnxSettings

_SMALLEST_PEAK = 1e-30  # as in the graph


def as_run(settings: OnnxSettings, shape: Architecture, layer: int) -> Apply:
    """Return a function that applies a linear layer of dequantized weights as the graph's kernels do."""
    choices = choices_of(settings, shape, layer)

    def apply(weights: LayerWeights, name: str, inputs: Tensor) -> Tensor:
        return linear(weights, name, rounded(inputs, choices[name], offset_of(shape, name)))

    return apply


def choices_of(settings: OnnxSettings, shape: Architecture, layer: int) -> Mapping[str, Choice]:
    """Return how each linear layer of a layer is stored and multiplied, by its name within the layer."""
    products = (*nodes.inner(settings, shape, layer), *nodes.outer(settings, shape, layer))
    return {name: product.choice for product in products for name in product.members}


def offset_of(shape: Architecture, name: str) -> float | None:
    """Return what is added to the inputs of a linear layer in channels so that none is negative; None for any sign."""
    return nodes.OFFSETS[shape.activation] if name == CONTRACT else None


def rounded(inputs: Tensor, choice: Choice, offset: float | None = None) -> Tensor:
    """Round the inputs of a product.

    Args:
        inputs: fp32 [..., columns].
        choice: how the product is computed.
        offset: see :func:`offset_of`; it matters in channels only.

    Returns:
        What the rounded inputs stand for, fp32 in the shape of the inputs.
    """
    if choice.activations == "fp32":
        return inputs
    if choice.in_blocks:
        split = inputs.unflatten(-1, (-1, choice.block_size))
        first = _on_grid(split)
        both = first + _on_grid(split - first) if choice.activations == "int8x2" else first
        return both.flatten(-2)
    if offset is None:
        return _on_grid(inputs)
    lifted = inputs + offset
    step = lifted.amax(-1, keepdim=True).clamp_min(_SMALLEST_PEAK) / 255
    return (lifted / step).round().clamp(0, 255) * step - offset


def _on_grid(values: Tensor) -> Tensor:
    """Round to 127 steps of either sign, whose size follows the largest magnitude along the last axis."""
    step = values.abs().amax(-1, keepdim=True).clamp_min(_SMALLEST_PEAK) / 127
    return (values / step).round() * step


def in_bfloat16(weights: LayerWeights, name: str, inputs: Tensor) -> Tensor:
    """Apply a linear layer to bf16 inputs, as torch does in bf16."""
    return F.linear(inputs, *(weights[f"{name}.{part}"].bfloat16() for part in ("weight", "bias")))


def stored_weight(weight: Tensor, choice: Choice) -> Tensor:
    """Return a weight, fp32 [out, in], as a reader will get it."""
    stored = token_tables.rounded(weight, choice)
    return stored if isinstance(stored, Tensor) else stored.dequantize()


def excess(weight: Tensor, inputs: Tensor, choice: Choice, offset: float | None = None) -> float:
    """Return the squared error of a product, divided by that of the same product with both sides rounded to bf16.

    Args:
        weight: fp32 [out, in].
        inputs: fp32 [tokens, in].
        choice: how the product is computed.
        offset: see :func:`offset_of`.
    """
    exact = inputs @ weight.t()
    least = (inputs.bfloat16().float() @ weight.bfloat16().float().t() - exact).square().sum()
    found = (rounded(inputs, choice, offset) @ stored_weight(weight, choice).t() - exact).square().sum()
    return float(found / least) if least > 0 else 0.0


def excess_of_inputs(inputs: Tensor, choice: Choice, offset: float | None = None) -> float:
    """Return the squared error of a product's rounded inputs, divided by that of the same inputs in bf16.

    After equalizing, all normalized inputs have about the same effect on the product.
    """
    least = (inputs.bfloat16().float() - inputs).square().sum()
    return float((rounded(inputs, choice, offset) - inputs).square().sum() / least) if least > 0 else 0.0


def finer(choice: Choice, block_size: BlockSize) -> Iterator[Choice]:
    """Yield ever finer ways to store and multiply a tensor, those first that cost least.

    Args:
        choice: where to begin.
        block_size: the size of blocks for what has none.
    """
    if choice.weights == "fp32":
        return
    if choice.in_channels:
        choice = Choice("int8", block_size, "int8")
        yield choice
    if choice.activations == "int8":
        choice = Choice(choice.weights, choice.block_size, "int8x2")
        yield choice
    for size in sorted(get_args(BlockSize), reverse=True):
        if size < choice.block_size:
            yield Choice(choice.weights, cast(BlockSize, size), choice.activations)
    yield Choice("fp32", 0, "fp32")
