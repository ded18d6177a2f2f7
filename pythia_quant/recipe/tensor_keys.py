"""The keys by which a variant names single tensors, such as ``head`` or ``layers.3.attention.dense``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic_core import PydanticCustomError

from pythia_quant.core.errors import nearest
from pythia_quant.core.settings import Misfit

IN_LAYERS = {
    "attention.query_key_value": 3 / 12,
    "attention.dense": 1 / 12,
    "mlp.dense_h_to_4h": 4 / 12,
    "mlp.dense_4h_to_h": 4 / 12,
}
"""The linear layers of a layer, with each one's share of the weights if the MLP is four times as wide as the model."""

_PATTERN = re.compile(r"(?:layers\.([0-9]{1,4})\.)?(.+)")


def parse(pattern: str) -> tuple[int | None, str]:
    """Split ``layers.3.attention.dense`` into the layer's number and the name; the number is None if none is there."""
    match = _PATTERN.fullmatch(pattern)
    layer, name = match.groups() if match else (None, pattern)
    return (int(layer) if layer else None), name


def parse_name(name: str) -> tuple[int, str]:
    """Split the name of a linear layer's weight in a checkpoint into the layer's number and the linear layer's name."""
    layer, linear = parse(name.removeprefix("gpt_neox.").removesuffix(".weight"))
    return layer or 0, linear


def refuse_unknown(patterns: Iterable[str]) -> None:
    """Refuse a key that names no tensor.

    Raises:
        PydanticCustomError: there is one; the error suggests another.
    """
    for pattern in patterns:
        _, name = parse(pattern)
        if name not in (*IN_LAYERS, "head", "embeddings"):
            hint = nearest(name, (*IN_LAYERS, "head", "embeddings"))
            raise conflict(f"'{pattern}' is no tensor; {hint}", "tensors")


def beyond(patterns: Iterable[str], layers: int) -> Misfit | None:
    """Return the first key that names a layer which the model does not have."""
    for pattern in patterns:
        layer, _ = parse(pattern)
        if layer is not None and layer >= layers:
            return Misfit(("tensors", pattern), f"the model has layers 0 to {layers - 1}")
    return None


def conflict(message: str, key: str) -> PydanticCustomError:
    """Make an error about a key of a variant that does not suit the others."""
    return PydanticCustomError("conflict", "{message}", {"message": message, "under": key})
