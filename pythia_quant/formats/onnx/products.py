"""Which matrix products a layer is made of, and under which names their tensors stand in the model.

The parallel residual lets the linear layers that read the same normalized input be one product, and likewise those
whose results are added. They are merged where they are stored alike. Products with a scale per channel never are:
shared inputs are rounded once anyway, and attention and MLP keep the scales of their activations apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from pythia_quant.architecture import Architecture
from pythia_quant.formats.onnx.settings import Choice, OnnxSettings

EMBEDDINGS, HEAD, FINAL_NORM = "embeddings", "head", "final_norm"


@dataclass(frozen=True)
class Product:
    """One matrix product.

    Attributes:
        name: a suffix names its tensors, such as ``.codes``.
        members: the linear layers it computes, by their names within the layer.
        choice: how the weights are stored and multiplied.
        rows: outputs.
        columns: inputs.
    """

    name: str
    members: tuple[str, ...]
    choice: Choice
    rows: int
    columns: int


def inner(settings: OnnxSettings, architecture: Architecture, layer: int) -> list[Product]:
    """Return the products that read a layer's normalized input; merged, their rows follow each other."""
    d, m = architecture.width, architecture.mlp_width
    rows = {"attention.query_key_value": 3 * d, "mlp.dense_h_to_4h": m}
    single = [
        Product(f"layers.{layer}.{name}", (name,), settings.of_linear(layer, name), count, d)
        for name, count in rows.items()
    ]
    if not _alike(single):
        return single
    return [Product(f"layers.{layer}.inner", tuple(rows), single[0].choice, 3 * d + m, d)]


def outer(settings: OnnxSettings, architecture: Architecture, layer: int) -> list[Product]:
    """Return the products whose results are added to the residual; merged, their columns follow each other."""
    d, m = architecture.width, architecture.mlp_width
    columns = {"attention.dense": d, "mlp.dense_4h_to_h": m}
    single = [
        Product(f"layers.{layer}.{name}", (name,), settings.of_linear(layer, name), d, count)
        for name, count in columns.items()
    ]
    if not _alike(single):
        return single
    return [Product(f"layers.{layer}.outer", tuple(columns), single[0].choice, d, d + m)]


def head(settings: OnnxSettings, architecture: Architecture) -> Product:
    """Return the head's product."""
    return Product(HEAD, (HEAD,), settings.of_head(), architecture.vocabulary, architecture.width)


def norm_gain(layer: int) -> str:
    """Return the name of the gain of a layer's normalization."""
    return f"layers.{layer}.norm.gain"


def _alike(products: list[Product]) -> bool:
    return products[0].choice == products[1].choice and not products[0].choice.in_channels
