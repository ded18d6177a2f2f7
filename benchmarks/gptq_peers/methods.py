"""The methods that ours is compared with: rounding to nearest, and options of other programs, at 4 and at 3 bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BITS = (4, 3)
GROUP_SIZE = 128

FLOAT32 = {"dtype": "float32"}
"""On a CPU, gptqmodel loads weights in bfloat16 by default, and quantizes what that leaves of them."""


@dataclass(frozen=True)
class Method:
    """One row that is not a variant of ours.

    Attributes:
        name: the row's.
        bits: of a code.
        options: of the program, beside bits and group size; None for rounding to nearest.
        program: which it is, a key of :data:`gptq_peers.peer.PROGRAMS`.
    """

    name: str
    bits: int
    options: dict[str, Any] | None = field(default_factory=dict)
    program: str = "gptqmodel"

    def settings(self) -> dict[str, Any]:
        """Return all that decides the result, as JSON data."""
        return {"bits": self.bits, "group_size": GROUP_SIZE, **(self.options or {})}


# Asymmetric rows: format v1 stores zero points less 1, and with 0 the subtraction borrows from the neighbour.
_ASYMMETRIC = {"sym": False, "format": "gptq_v2"}
_STATIC = {"desc_act": True, "static_groups": True}
_SEARCH = {"mse": 2.4}
"""The power of the errors in the search for scales; the reference implementation of GPTQ uses the same."""

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
"""The first is gptqmodel's default, whose order of columns is act_group_aware."""

AUTOROUND: dict[str, dict[str, Any]] = {
    "auto-round": {"iters": 200, "sym": True},
    "auto-round asym": {"iters": 200, "sym": False},
}
"""Its default is 200 iterations a block, each on eight windows."""

ONECOMP: dict[str, dict[str, Any]] = {
    "onecomp gptq": {"quantizer": "gptq", "actorder": True, "mse": True},
    "onecomp qep": {"quantizer": "gptq", "actorder": True, "mse": True, "qep": True},
    "onecomp jointq": {"quantizer": "jointq"},
}
"""QEP makes up for errors of earlier layers. JointQ does not work with it, and has zero points."""

_ROWS: dict[str, dict[str, dict[str, Any] | None]] = {
    "gptqmodel": {"nearest": None, **GPTQMODEL},
    "auto-round": {**AUTOROUND},
    "onecomp": {**ONECOMP},
}

METHODS = [
    Method(f"{name} {bits}", bits, options, program)
    for bits in BITS
    for program, rows in _ROWS.items()
    for name, options in rows.items()
]
