"""The settings of measurements in a recipe: tasks, lengths for speed, and limits on the results."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from pythia_quant.core.settings import MOST_TOKENS, MOST_WINDOWS, Name, Settings
from pythia_quant.core.text import short

DECODED = 66
"""Tokens decoded after each context of a latency measurement, the two that warm up included."""


class LambadaSettings(Settings):
    """LAMBADA's rows: a local file, or one in a hub dataset repository; `examples` are the first so many."""

    file: Name
    dataset: Name | None = None
    revision: Name = "main"
    examples: int | None = Field(default=None, ge=2, le=MOST_WINDOWS)


class TaskSettings(Settings):
    """Tasks to measure accuracy on."""

    lambada: LambadaSettings | None = None


class LatencySettings(Settings):
    """Lengths to measure speed at, in tokens; by default those of a fixed list that the model's context holds.

    Without rounds, no speed is measured.
    """

    prompts: list[int] | None = Field(default=None, min_length=1, max_length=100)
    contexts: list[int] | None = Field(default=None, min_length=1, max_length=100)
    rounds: int = Field(default=3, ge=0, le=1000)

    @field_validator("prompts", "contexts")
    @classmethod
    def _positive(cls, lengths: list[int] | None) -> list[int] | None:
        for length in lengths or ():
            if not 1 <= length <= MOST_TOKENS:
                context = {"length": short(length), "most": f"{MOST_TOKENS:,}"}
                raise PydanticCustomError("length", "{length} is no length; give tokens, 1 to {most}", context)
        return lengths


_UNITS = {"max_ppl_drift": "%", "max_kl": "mnat", "min_top1": "%", "min_speedup": "x"}


class GateSettings(Settings):
    """Limits on measured values as run; the unit may be written behind the number.

    Attributes:
        max_ppl_drift: percent of the reference's perplexity.
        max_kl: thousandths of a nat.
        min_top1: percent of tokens.
        min_speedup: ratio of decode speeds, to the fastest unquantized row.
    """

    max_ppl_drift: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    max_kl: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    min_top1: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    min_speedup: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @field_validator(*_UNITS, mode="before")
    @classmethod
    def _number_with_its_unit(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        unit = _UNITS[str(info.field_name)]
        try:
            return float(value.removesuffix(unit))
        except ValueError:
            limit = {"value": short(value), "unit": unit}
            raise PydanticCustomError("limit", "{value} is no limit; give a number, of {unit}", limit) from None
