"""Names of tensors in the graph: those that other programs feed and read, and those where it is cut into layers."""

from __future__ import annotations

IDS, MASK, LOGITS, LOGITS_TO_KEEP = "input_ids", "attention_mask", "logits", "num_logits_to_keep"

EMBEDDED = "embedded"
"""The hidden states before the first layer, fp32 [batch, tokens, width]."""

_PAST, _PRESENT = "past_key_values", "present"


def within(layer: int | str) -> str:
    """Return how all names within a layer begin."""
    return f"layers.{layer}"


def hidden(layer: int) -> str:
    """Return the name of the hidden states after a layer, fp32 [batch, tokens, width]."""
    return f"{within(layer)}.hidden"


def seams(layers: int) -> list[str]:
    """Return the names of the tensors at which the graph is cut into parts: the embedding, each layer, and the end.

    Each is the result of one part, and the input of the next one; the last is the logits.
    """
    return [EMBEDDED, *map(hidden, range(layers)), LOGITS]


def past(layer: int | str) -> tuple[str, str]:
    """Return the names of a layer's keys and values that a run begins with."""
    return f"{_PAST}.{layer}.key", f"{_PAST}.{layer}.value"


def present(layer: int | str) -> tuple[str, str]:
    """Return the names of a layer's keys and values that a run ends with."""
    return f"{_PRESENT}.{layer}.key", f"{_PRESENT}.{layer}.value"
