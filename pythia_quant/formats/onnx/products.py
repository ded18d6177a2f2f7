"""Which matrix products a layer is made of, and under which names their tensors stand in the model.

A parallel residual lets the linear layers that read the same normalized input be one product, and likewise those
whose results are added. They are merged where they are stored alike. Products with a scale per channel never are:
shared inputs are rounded once anyway, and attention and MLP keep the scales of their activations apart. With a
sequential residual the MLP reads what attention has added to, by a normalization of its own: nothing can be merged.
"""

from __future__ import annotations

from dataclasses import dataclass

from pythia_quant.model.architecture import CONTRACT, DENSE, EXPAND, MIXED, Architecture
from pythia_quant.recipe.onnx_variant import Choice, OnnxSettings

EMBEDDINGS, HEAD, FINAL_NORM = "embeddings", "head", "final_norm"

NORMS = ("input_layernorm", "post_attention_layernorm")
"""The normalizations within a layer, by their names there: before attention, and before the MLP."""


@dataclass(frozen=True)
class Product:
    """One matrix product.

    Attributes:
        name: a suffix names its tensors, such as ``.codes``.
        members: the linear layers it computes, by their names within the layer.
        choice: how the weights are stored and multiplied.
        rows: outputs.
        columns: inputs.
        bias: whether its tensors include a bias.
    """

    name: str
    members: tuple[str, ...]
    choice: Choice
    rows: int
    columns: int
    bias: bool


def inner(settings: OnnxSettings, architecture: Architecture, layer: int) -> list[Product]:
    """Return the products that read a layer's normalized inputs; merged, their rows follow each other."""
    d, m = architecture.width, architecture.mlp_width
    rows = {MIXED: 3 * d, EXPAND: m}
    single = [
        Product(f"layers.{layer}.{name}", (name,), settings.of_linear(layer, name), count, d, bias=True)
        for name, count in rows.items()
    ]
    if not _mergeable(architecture, single):
        return single
    return [Product(f"layers.{layer}.inner", tuple(rows), single[0].choice, 3 * d + m, d, bias=True)]


def outer(settings: OnnxSettings, architecture: Architecture, layer: int) -> list[Product]:
    """Return the products whose results are added to the residual; merged, their columns follow each other.

    With a parallel residual, only the first has a bias: both are in it.
    """
    d, m = architecture.width, architecture.mlp_width
    columns = {DENSE: d, CONTRACT: m}
    biased = {DENSE} if architecture.parallel_residual else {DENSE, CONTRACT}
    single = [
        Product(f"layers.{layer}.{name}", (name,), settings.of_linear(layer, name), d, count, bias=name in biased)
        for name, count in columns.items()
    ]
    if not _mergeable(architecture, single):
        return single
    return [Product(f"layers.{layer}.outer", tuple(columns), single[0].choice, d, d + m, bias=True)]


def head(settings: OnnxSettings, architecture: Architecture) -> Product:
    """Return the head's product."""
    return Product(HEAD, (HEAD,), settings.of_head(), architecture.vocabulary, architecture.width, bias=False)


def norm_gain(architecture: Architecture, layer: int, norm: str) -> str:
    """Return the name of the gain of one of a layer's `NORMS`; with a parallel residual they have one in common."""
    return f"layers.{layer}.{'norm' if architecture.parallel_residual else norm}.gain"


def _mergeable(architecture: Architecture, products: list[Product]) -> bool:
    alike = products[0].choice == products[1].choice and not products[0].choice.in_channels
    return alike and architecture.parallel_residual
