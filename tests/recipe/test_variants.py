"""Settings of a variant that do not go together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pythia_quant.recipe.variants import parse_variant


@pytest.mark.parametrize(
    "settings",
    [
        {"format": "gptq", "sweeps": 0},
        {"format": "gguf", "sweeps": 0},
        {"format": "gguf", "quantizer": "nearest"},
        {"format": "gguf", "codes": "gptq-int4"},
    ],
    ids=str,
)
def test_codes_cannot_be_moved_by_what_errors_cost_where_none_are_moved(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"codes are moved in .*sweeps"):
        parse_variant({**settings, "fisher": True})
    parse_variant({**settings, "fisher": False})
