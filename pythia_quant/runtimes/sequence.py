"""One sequence after the other in a runtime, without computing again what two prompts have in common."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pythia_quant.runtimes.protocol import Runtime, check_capacity

PIECE = 64
"""A prompt is computed in pieces of so many tokens, from its beginning. Whole pieces are what is used again: they hold
the same numbers whatever was computed before, while other cuts would round differently."""
_LEAST_ROOM = 512


@runtime_checkable
class Resumable(Runtime, Protocol):
    """A runtime whose sequence can be shortened, and extended by several tokens at once."""

    def extend(self, ids: Tensor) -> Tensor:
        """Append tokens, int64 [tokens], to the sequence; return the last one's logits, fp32 [vocabulary].

        Raises:
            BenchmarkError: there was no prefill, or its capacity is used up.
        """
        ...

    def rewind(self, tokens: int) -> None:
        """Forget all but the first `tokens` of the sequence, at least one."""
        ...


class Sequence:
    """The sequence of a runtime. Nothing else may call the runtime's ``prefill`` and ``step``.

    What a prompt gives does not depend on the prompts before it, to the last bit.

    Args:
        runtime: the model.
        context: the model's positions.

    Attributes:
        reused: how many tokens of the last prompt were not computed again.
    """

    def __init__(self, runtime: Runtime, context: int) -> None:
        self._runtime, self._context = runtime, context
        self._prompt: list[int] = []
        self._logits: Tensor | None = None
        self._room = 0
        self.reused = 0

    def begin(self, ids: list[int], capacity: int) -> Tensor:
        """Begin with a prompt.

        Args:
            ids: the prompt, at least one token.
            capacity: the most tokens that the sequence will have, those of the prompt included.

        Returns:
            The logits of the last position, fp32 [vocabulary].

        Raises:
            BenchmarkError: the capacity exceeds the model's context, or the prompt exceeds the capacity.
        """
        runtime = self._runtime
        check_capacity(capacity, self._context)
        check_capacity(len(ids), capacity)
        before, known, self._prompt = self._prompt, self._logits, []  # if this fails, nothing is known of the sequence
        if not isinstance(runtime, Resumable):
            return runtime.prefill(torch.tensor(ids), capacity)
        self.reused = 0
        if capacity <= self._room:
            if ids == before and known is not None:
                runtime.rewind(len(ids))
                self.reused = len(ids)
            else:
                self.reused = min(_common(ids, before), len(ids) - 1) // PIECE * PIECE
                if self.reused:
                    runtime.rewind(self.reused)
        else:
            self._room = min(self._context, max(capacity, 2 * self._room, _LEAST_ROOM))
        logits = known if known is not None and self.reused == len(ids) else self._read(runtime, ids)
        self._prompt, self._logits = list(ids), logits
        return logits

    def step(self, token: int) -> Tensor:
        """Append a token; return the logits of its position, fp32 [vocabulary].

        Raises:
            BenchmarkError: the sequence has as many tokens as its capacity.
        """
        return self._runtime.step(token)

    def _read(self, runtime: Resumable, ids: list[int]) -> Tensor:
        pieces = [torch.tensor(ids[start : start + PIECE]) for start in range(self.reused, len(ids), PIECE)]
        logits = runtime.extend(pieces[0]) if self.reused else runtime.prefill(pieces[0], self._room)
        for piece in pieces[1:]:
            logits = runtime.extend(piece)
        return logits


def _common(one: list[int], other: list[int]) -> int:
    """Return how many tokens two prompts have in common at their beginning."""
    count = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    return min(len(one), len(other)) if count is None else count
