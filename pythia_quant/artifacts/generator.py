"""Continue prompts with a loaded artifact, piece by piece, one prompt after the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.artifacts.pieces import Piece, TokenScore, Wish
from pythia_quant.artifacts.prompts import Prompts
from pythia_quant.model.text_stream import Detokenizer, StopStrings
from pythia_quant.runtimes.decode import Chosen, decode
from pythia_quant.runtimes.sampling import Sampler, log_probabilities, most_likely
from pythia_quant.runtimes.sequence import Sequence


class Generator(Prompts):
    """An artifact that continues prompts. Only one thread may use it, and nothing else the artifact's runtime.

    Args:
        artifact: the artifact, whose model is loaded now.

    Attributes:
        sequence: the runtime's sequence, which keeps what two prompts have in common.

    Raises:
        ArtifactError: the artifact is damaged.
    """

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.runtime = artifact.runtime
        self.sequence = Sequence(self.runtime, self.architecture.context)

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
