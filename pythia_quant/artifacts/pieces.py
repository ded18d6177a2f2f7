"""What is wanted of a continuation, and the pieces in which it comes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pythia_quant.core.errors import ArgumentError
from pythia_quant.runtimes.sampling import Sampling

Finish = Literal["stop", "length"]
"""Why a text ended: by an end token or a stop string, or because it has as many tokens as were asked for."""


@dataclass(frozen=True)
class Wish:
    """What is wanted of a continuation.

    Attributes:
        count: the most tokens to add.
        sampling: how tokens are chosen.
        stops: strings at the first of which the text ends, without it.
        alternatives: how many of the likeliest tokens are reported at each position; None for no log-probabilities.
        ignore_end: whether the text goes on after a token that ends texts.

    Raises:
        ArgumentError: `count` is no number of tokens, or a stop string is none.
    """

    count: int
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    alternatives: int | None = None
    ignore_end: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or self.count < 0:
            raise ArgumentError(f"is {self.count!r}; it must be a whole number, 0 or more", where="max_new_tokens")
        if wrong := [stop for stop in self.stops if not isinstance(stop, str)]:
            raise ArgumentError(f"holds {wrong[0]!r}; give a text, or a list of texts", where="stop")


@dataclass(frozen=True)
class TokenScore:
    """A token of a text.

    Attributes:
        token: the token.
        offset: where its text begins, in characters from the first new token's.
        log_probability: nats, before temperature; None if it was not asked for, or is that of a text's first token.
        likeliest: the likeliest tokens there, and their log-probabilities.
    """

    token: int
    offset: int
    log_probability: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """A part of a continuation.

    Attributes:
        text: text that cannot change any more.
        tokens: the tokens that were added since the piece before. A token of a stop string is left out.
        generated: how many tokens were chosen until now.
        finish: in the last piece, why the text ended.
    """

    text: str
    tokens: list[TokenScore] = field(default_factory=list)
    generated: int = 0
    finish: Finish | None = None
