"""The base of all settings that a user writes in a file: strict types, and an unknown key is an error with a hint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pythia_quant.core.errors import nearest
from pythia_quant.core.text import short

MOST_TOKENS = 10_000_000
"""The longest context and the longest prompt that settings may name."""
MOST_WINDOWS = 1_000_000
"""The most windows, passages or other samples that settings may name; so many would fill any machine's disk."""


def _without_nul(name: str) -> str:
    if "\0" in name:
        raise PydanticCustomError("name", "{name} holds a NUL character, which no name has", {"name": short(name)})
    return name


Name = Annotated[str, Field(min_length=1), AfterValidator(_without_nul)]
"""The name of a file, a repository, a revision or a column."""

Damping = Literal["auto"] | Annotated[float, Field(gt=0, lt=1)]
"""Of a Hessian, relative to its mean diagonal; or held-out calibration windows decide it."""


class Settings(BaseModel):
    """Immutable, strictly typed settings that refuse keys they do not know."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for key in data:
                if key not in known:
                    hint = nearest(short(key), known)
                    raise PydanticCustomError("unknown_key", "unknown key '{key}'; {hint}", {"key": key, "hint": hint})
        return data


class Misfit(NamedTuple):
    """A setting that does not suit a model: the keys that lead to it, and why."""

    keys: tuple[str, ...]
    why: str


class VariantSettings(Settings, ABC):
    """The settings of one variant. ``recipe/`` has a subclass for each format, whose literal field ``format`` names it.

    Attributes:
        format: the format of its artifacts.
    """

    format: str

    @property
    def calibrates(self) -> bool:
        """Whether its quantizer solves layers on calibration text, and corrects biases."""
        return False

    @property
    def reads_calibration(self) -> bool:
        """Whether its conversion reads calibration text, for whatever."""
        return self.calibrates

    @abstractmethod
    def stored_bits(self) -> tuple[float, float]:
        """Return the bits of a weight on disk, scales included: in the linear layers, and in embeddings and head."""

    @abstractmethod
    def code_bits(self, name: str) -> int:
        """Return the bits that hold one value of the matrix `name`, as a code or as a float, scales not included."""

    def takes_codes_of(self) -> str | None:
        """Return the variant of the same recipe whose integers this one stores; None when it computes its own."""
        return None

    def caveats(self) -> list[str]:
        """Return notes for a user who is about to spend time on these settings, such as that a kernel is missing."""
        return []

    def fits(self, width: int, mlp_width: int, layers: int) -> Misfit | None:  # noqa: ARG002 - for those that care
        """Return the setting that does not suit a model of this shape, or None when all do."""
        return None


def divides(keys: tuple[str, ...], size: int, width: int, mlp_width: int, choices: tuple[int, ...]) -> Misfit | None:
    """Check that `size`, the setting at `keys`, divides both widths; the misfit names the choices that do."""
    if width % size == 0 and mlp_width % size == 0:
        return None
    good = [choice for choice in choices if width % choice == 0 and mlp_width % choice == 0]
    ways = f"choose from: {', '.join(map(str, good))}" if good else f"none of {choices} does"
    return Misfit(keys, f"{size} does not divide the model's widths {width} and {mlp_width}; {ways}")
