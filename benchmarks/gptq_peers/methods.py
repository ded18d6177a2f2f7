"""What is compared with ours: rounding to nearest, and gptqmodel's options, at 4 and at 3 bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BITS = (4, 3)
GROUP_SIZE = 128

FLOAT32 = {"dtype": "float32"}
"""gptqmodel loads in bfloat16 on a CPU unless told otherwise, and quantizes the weights rounded to that."""


@dataclass(frozen=True)
class Method:
    """One row that is not a variant of ours.

    Attributes:
        name: the row's.
        bits: of a code.
        options: of gptqmodel, beside bits and group size; None for rounding to nearest.
    """

    name: str
    bits: int
    options: dict[str, Any] | None = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return all that decides the result, as JSON data."""
        return {"bits": self.bits, "group_size": GROUP_SIZE, **(self.options or {})}


# Zero points that are not all in the middle: format v1 stores them less 1, and 0 less 1 borrows from its neighbour.
_ASYMMETRIC = {"sym": False, "format": "gptq_v2"}
_STATIC = {"desc_act": True, "static_groups": True}
_SEARCH = {"mse": 2.4}
"""The power that errors are raised to where scales are searched; what the reference implementation of GPTQ uses."""

GPTQMODEL: dict[str, dict[str, Any]] = {
    "gptqmodel bf16": {},
    "gptqmodel": FLOAT32,
    "gptqmodel natural": {**FLOAT32, "act_group_aware": False},
    "gptqmodel desc_act": {**FLOAT32, "desc_act": True},
    "gptqmodel static": {**FLOAT32, **_STATIC},
    "gptqmodel gptaq": {**FLOAT32, "gptaq": {}},
    "gptqmodel asym": {**FLOAT32, **_ASYMMETRIC},
    "gptqmodel mse": {**FLOAT32, **_SEARCH},
    "gptqmodel asym mse": {**FLOAT32, **_ASYMMETRIC, **_SEARCH},
    "gptqmodel desc_act asym mse": {**FLOAT32, "desc_act": True, **_ASYMMETRIC, **_SEARCH},
    "gptqmodel damp 0.01": {**FLOAT32, "damp_percent": 0.01},
}
"""The first is what it does unless told otherwise; its own order of columns is act_group_aware."""

METHODS = [
    Method(f"{name} {bits}", bits, options) for bits in BITS for name, options in {"nearest": None, **GPTQMODEL}.items()
]
