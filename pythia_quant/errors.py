"""The one base class of everything this package refuses, so that the command line can print it and exit with 2."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PythiaQuantError(Exception):
    """A refusal the user can act on.

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
    """What the command line gives cannot be used, whichever command it is for."""


class RecipeError(PythiaQuantError):
    """The recipe file, or a setting given instead of one in it, is not usable."""


class SourceError(PythiaQuantError):
    """The checkpoint or its tokenizer is missing, damaged, or of a kind that is not handled."""


class CorpusError(PythiaQuantError):
    """A calibration or evaluation text is missing, too short, or overlaps the other one."""


class QuantizationError(PythiaQuantError):
    """Tensors cannot be quantized as asked: shapes, non-finite values, unsuitable calibration."""


class ArtifactError(PythiaQuantError):
    """An artifact is incomplete, altered, in the way, or does not compute what was intended."""


class BenchmarkError(PythiaQuantError):
    """A measurement could not be made or read back."""


class StorageError(PythiaQuantError):
    """A file or folder cannot be read or written where it is: the disk is full, read-only, somebody else's, …"""


class HubError(PythiaQuantError):
    """The hub refuses or cannot be reached, or holds something else than it should."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the closest of `choices`, or the list of choices."""
    choices = sorted(choices)
    close = get_close_matches(word, choices, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from: {', '.join(choices)}"
