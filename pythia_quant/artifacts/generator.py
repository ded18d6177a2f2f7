"""Continue prompts with a loaded artifact, piece by piece, one prompt after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.core.errors import ArgumentError, ArtifactError, CorpusError
from pythia_quant.model.architecture import SpecialTokens
from pythia_quant.model.generation_config import read_model
from pythia_quant.model.text_stream import Detokenizer, StopStrings
from pythia_quant.model.tokenizer import tokenize
from pythia_quant.runtimes.decode import Chosen, decode
from pythia_quant.runtimes.sampling import Sampler, Sampling, log_probabilities, most_likely
from pythia_quant.runtimes.sequence import Sequence

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


class Generator:
    """An artifact that continues prompts. Only one thread may use it, and nothing else the artifact's runtime.

    Args:
        artifact: the artifact, whose model is loaded now.

    Attributes:
        architecture: the model's shape.
        tokenizer: the artifact's tokenizer.
        sequence: the runtime's sequence, which keeps what two prompts have in common.

    Raises:
        ArtifactError: the artifact is damaged.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.architecture = read_model(artifact.folder, quantized=True)
        self.tokenizer = artifact.tokenizer
        self.runtime = artifact.runtime
        self.sequence = Sequence(self.runtime, self.architecture.context)

    def encode(self, prompt: str) -> list[int]:
        """Return a prompt's tokens; an empty prompt is the token that begins a text.

        Raises:
            CorpusError: the prompt is not UTF-8, or it is empty and the model has no token to begin with.
        """
        return tokenize(self.tokenizer, prompt).ids or _start(self.architecture.tokens)

    def check_room(self, ids: list[int], count: int) -> None:
        """Refuse a continuation that does not fit the model's context.

        Raises:
            ArtifactError: it does not.
        """
        context = self.architecture.context
        if len(ids) + count > context:
            raise ArtifactError(
                f"the prompt's {len(ids)} tokens and {count} new ones exceed the context, {context}",
                hint="shorten the prompt, or ask for fewer tokens (--max-new-tokens)",
            )

    def stream(self, ids: list[int], wish: Wish) -> Iterator[Piece]:
        """Yield a continuation of a prompt in pieces; the last one has a `finish`.

        Raises:
            ArtifactError: prompt and continuation exceed the model's context.
            BenchmarkError: logits are not finite.
        """
        self.check_room(ids, wish.count)
        if wish.count == 0:
            yield Piece("", finish="length")
            return
        ends = () if wish.ignore_end else self.architecture.tokens.ends
        first = self.sequence.begin(ids, len(ids) + wish.count)
        sampler, where = Sampler(wish.sampling), self.runtime.description
        detokenizer, stops = Detokenizer(self.tokenizer), StopStrings(wish.stops)
        waiting: list[TokenScore] = []
        decoded = shown = generated = 0
        for chosen in decode(first, self.sequence.step, len(ids), wish.count, ends, sampler, where):
            generated += 1
            waiting.append(_scored(chosen, decoded, wish.alternatives))
            part = detokenizer.feed(chosen.token)
            decoded += len(part)
            text = stops.feed(part)
            shown += len(text)
            if stops.found:
                yield Piece(text, [one for one in waiting if one.offset < shown], generated, "stop")
                return
            if text:
                yield Piece(text, waiting, generated)
                waiting = []
        text = stops.feed(detokenizer.finish()) + stops.finish()
        ended = generated < wish.count or stops.found
        yield Piece(text, waiting, generated, "stop" if ended else "length")

    def scores(self, ids: list[int], alternatives: int) -> list[TokenScore]:
        """Return the tokens of a text with their log-probabilities, the first one's excepted, which nothing precedes.

        They come from the logits of the whole text, as those that ``lm_eval`` is given.

        Raises:
            ArtifactError: the text exceeds the model's context.
        """
        self.check_room(ids, 0)
        logits = self.runtime.logits(torch.tensor([ids]))[0].numpy()
        detokenizer, scores, offset = Detokenizer(self.tokenizer), [], 0
        for at, token in enumerate(ids):
            one = TokenScore(token, offset)
            scores.append(_scored(Chosen(token, logits[at - 1]), offset, alternatives) if at else one)
            offset += len(detokenizer.feed(token))
        return scores


def _scored(chosen: Chosen, offset: int, alternatives: int | None) -> TokenScore:
    if alternatives is None:
        return TokenScore(chosen.token, offset)
    values: NDArray[np.float64] = log_probabilities(chosen.logits)
    likeliest = tuple((token, float(values[token])) for token in most_likely(values, alternatives))
    return TokenScore(chosen.token, offset, float(values[chosen.token]), likeliest)


def _start(tokens: SpecialTokens) -> list[int]:
    """Return the token that stands for an empty prompt."""
    start = tokens.end if tokens.begin is None else tokens.begin
    if start is None:
        raise CorpusError("is empty, and the model has no token that begins a text", where="the prompt")
    return [start]
