"""The base of everything a user writes in a file: strict types, and an unknown key is an error with a suggestion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pythia_quant.errors import nearest
from pythia_quant.printable import short

MOST_TOKENS = 10_000_000
"""No context is longer, and no prompt."""
MOST_WINDOWS = 1_000_000
"""As many fill a machine's disk many times over; also of passages and other samples."""


def _without_nul(name: str) -> str:
    if "\0" in name:
        raise PydanticCustomError("name", "{name} holds a NUL character, which no name has", {"name": short(name)})
    return name


Name = Annotated[str, Field(min_length=1), AfterValidator(_without_nul)]
"""Of a file, a repository, a revision or a column."""


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
    """One way to quantize. Subclasses live in their format's package and name it in a literal field ``format``.

    Attributes:
        calibrates: whether its quantizer uses calibration text, and corrects biases.
        format: the format of its artifacts.
    """

    calibrates: ClassVar[bool] = False
    format: str

    @abstractmethod
    def stored_bits(self) -> tuple[float, float]:
        """Return the bits a weight takes on disk, scales included: in the linear layers, in embeddings and head."""

    @abstractmethod
    def code_bits(self, name: str) -> int:
        """Return the bits of one value of a checkpoint's matrix, of its code or as a float; scales are not counted."""

    def takes_codes_of(self) -> str | None:
        """Return the variant of the same recipe whose integers this one stores; None when it has its own."""
        return None

    def caveats(self) -> list[str]:
        """Return what a user should know of these settings before spending time on them, such as a missing kernel."""
        return []

    def fits(self, width: int, mlp_width: int, layers: int) -> Misfit | None:  # noqa: ARG002 - for those that care
        """Return the setting that does not suit a model of this shape, or None when all do."""
        return None


def divides(keys: tuple[str, ...], size: int, width: int, mlp_width: int, choices: tuple[int, ...]) -> Misfit | None:
    """Check that `size` divides both widths; otherwise say so of the setting at `keys`, with the choices that do."""
    if width % size == 0 and mlp_width % size == 0:
        return None
    good = [choice for choice in choices if width % choice == 0 and mlp_width % choice == 0]
    ways = f"choose from: {', '.join(map(str, good))}" if good else f"none of {choices} does"
    return Misfit(keys, f"{size} does not divide the model's widths {width} and {mlp_width}; {ways}")
