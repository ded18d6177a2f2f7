"""One protocol for every way to run a model: logits of many tokens to measure, prefill and step to generate."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from pythia_quant.core.errors import BenchmarkError


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
        """Feed one more token; return fp32 [vocabulary].

        Raises:
            BenchmarkError: the last prefill's capacity is used up.
        """
        ...


def check_capacity(tokens: int, capacity: int) -> None:
    """Refuse to feed a sequence of `tokens` where `capacity` was asked for: there is no room for its keys and values.

    Raises:
        BenchmarkError: it does not fit.
    """
    if tokens > capacity:
        raise BenchmarkError(
            f"token {tokens} does not fit: a capacity of {capacity} tokens was asked for",
            hint="prefill with a larger capacity",
        )


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

    Raises:
        BenchmarkError: logits are not finite, so that no token is the most likely one.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = runtime.prefill(prompt, len(prompt) + count)
    added: list[int] = []
    while True:
        if not torch.isfinite(logits).all():
            raise BenchmarkError(
                f"after {len(prompt) + len(added)} tokens logits are not finite: this would be no text",
                where=runtime.description,
                hint="the weights are damaged, or too large for the dtype they are run in",
            )
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
