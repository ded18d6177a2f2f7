"""One protocol for every way to run a model: logits of many tokens to measure, prefill and step to generate."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor


class Runtime(Protocol):
    """A loaded model. Batch size 1 for generation; equal-length rows to measure.

    Attributes:
        description: library, kernel and dtype, as printed beside every number measured with it.
    """

    description: str

    def logits(self, ids: Tensor) -> Tensor:
        """Return logits for all positions: int64 [rows, tokens] in, fp32 [rows, tokens, vocabulary] out."""
        ...

    def prefill(self, ids: Tensor, capacity: int) -> Tensor:
        """Start over with a prompt, int64 [tokens].

        Args:
            ids: the prompt.
            capacity: how many tokens, prompt included, will be fed at most before the next prefill.

        Returns:
            fp32 [vocabulary], the logits of the last position.
        """
        ...

    def step(self, token: int) -> Tensor:
        """Feed one more token; return fp32 [vocabulary]."""
        ...


def generate(
    runtime: Runtime, prompt: Tensor, count: int, ends: Collection[int], temperature: float = 0.0, seed: int = 0
) -> list[int]:
    """Continue a prompt.

    Args:
        runtime: the model.
        prompt: int64 [tokens], at least one.
        count: the most tokens to add.
        ends: the tokens that end the text; none to always add `count`.
        temperature: 0 takes the most likely token, above 0 samples from the softmax of logits / temperature.
        seed: of the sampling.

    Returns:
        The new tokens, without the one that ended the text.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = runtime.prefill(prompt, len(prompt) + count)
    added: list[int] = []
    while True:
        if temperature > 0:
            token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
        else:
            token = int(logits.argmax())
        if token in ends:
            return added
        added.append(token)
        if len(added) == count:
            return added
        logits = runtime.step(token)
