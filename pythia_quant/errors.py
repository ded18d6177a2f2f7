"""The errors of this package. They share one base class, so that the command line can print them and exit with 2."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PythiaQuantError(Exception):
    """An error that the user can do something about.

    Args:
        what: what is wrong, in one sentence.
        where: the file, and the key, tensor or line in it.
        hint: what to do next.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(self._message())

    def _message(self) -> str:
        message = f"{self.where}: {self.what}" if self.where else self.what
        return f"{message}\n  {self.hint}" if self.hint else message


class ArgumentError(PythiaQuantError):
    """An argument of the command line cannot be used, whatever the command."""


class RecipeError(PythiaQuantError):
    """The recipe, or an option that replaces one of its settings, cannot be used."""


class SourceError(PythiaQuantError):
    """The checkpoint or its tokenizer is missing, damaged, or of an unsupported kind."""


class CorpusError(PythiaQuantError):
    """A calibration or evaluation text is missing or too short, or the two texts overlap."""


class QuantizationError(PythiaQuantError):
    """Tensors cannot be quantized with these settings: shapes, non-finite values, or calibration do not allow it."""


class ArtifactError(PythiaQuantError):
    """An artifact is incomplete or altered, stands where another is to be made, or computes the wrong values."""


class BenchmarkError(PythiaQuantError):
    """A measurement could not be made or read back."""


class StorageError(PythiaQuantError):
    """The operating system does not let us read or write a file: the disk is full, a permission is missing, …"""


class HubError(PythiaQuantError):
    """The hub refuses a request or cannot be reached, or a repository has the wrong content."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the closest of `choices`, or the list of choices when none is close."""
    choices = sorted(choices)
    matches = get_close_matches(word, choices, n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"choose from: {', '.join(choices)}"
