"""What a server and the process that runs its model say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from pythia_quant.artifacts.pieces import TokenScore, Wish
from pythia_quant.core import errors


@dataclass(frozen=True)
class Ready:
    """The model is loaded. `manifest` is that of its artifact, as JSON."""

    manifest: str


@dataclass(frozen=True)
class Stream:
    """Continue a prompt. The answer is pieces, then :class:`Ended`."""

    ids: list[int]
    wish: Wish


@dataclass(frozen=True)
class Score:
    """Score the tokens of a text. The answer is :class:`Ended`."""

    ids: list[int]
    alternatives: int


@dataclass(frozen=True)
class Stop:
    """Make no more pieces. What has ended already is not stopped, and this is not answered."""


@dataclass(frozen=True)
class Ended:
    """All is said. `reused` tokens of the prompt were not computed again."""

    reused: int = 0
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True)
class Failed:
    """An error of ours, which pickle would not keep whole."""

    kind: str
    what: str
    where: str
    hint: str

    @classmethod
    def of(cls, error: errors.PythiaQuantError) -> Failed:
        """Return the message of an error."""
        return cls(type(error).__name__, error.what, error.where, error.hint)

    def error(self) -> errors.PythiaQuantError:
        """Return the error of a message."""
        error: errors.PythiaQuantError = getattr(errors, self.kind)(self.what, where=self.where, hint=self.hint)
        return error
