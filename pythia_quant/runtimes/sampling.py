"""Choose the next token from logits: greedily, or by temperature, top-k and top-p."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_quant.core.errors import ArgumentError

HIGHEST_TEMPERATURE = 1000.0


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 to take the most likely token; above 0 to sample from the softmax of logits / temperature.
        top_k: sample among the `top_k` most likely tokens; 0 for all.
        top_p: sample among the most likely tokens whose probabilities, at that temperature, first add up to `top_p`.
        seed: the seed of the sampling.

    Raises:
        ArgumentError: a number is out of range, or is none.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        valid: Callable[[Any], bool]
        for name, kind, valid, needed in (
            ("temperature", Real, lambda it: 0 <= it <= HIGHEST_TEMPERATURE, f"0 to {HIGHEST_TEMPERATURE:.0f}"),
            ("top_k", Integral, lambda it: it >= 0, "a whole number, 0 or more"),
            ("top_p", Real, lambda it: 0 < it <= 1, "above 0 and at most 1"),
            ("seed", Integral, lambda it: 0 <= it < 2**64, "a whole number, 0 to 2^64 - 1"),
        ):
            value = getattr(self, name)
            if not (isinstance(value, kind) and valid(value)):
                raise ArgumentError(f"is {value!r}; it must be {needed}", where=name)


class Sampler:
    """Chooses tokens one after the other. Two of one seed choose the same from the same logits.

    Args:
        sampling: how tokens are chosen.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Return a token; `logits` is fp32 [vocabulary], all finite. Of equal logits, the first is the most likely."""
        sampling = self._sampling
        if sampling.temperature == 0:
            return int(logits.argmax())
        below = logits.astype(np.float64) - logits.max()  # of a tiny temperature, the quotients of others are -inf
        with np.errstate(over="ignore"):
            scaled = log_probabilities(below / sampling.temperature)
        if not sampling.top_k and sampling.top_p == 1:
            return int(self._draw(np.exp(scaled)))
        order = np.argsort(-scaled, kind="stable")[: sampling.top_k or None]
        probabilities = np.exp(scaled[order])
        if sampling.top_p < 1:  # the shares are those among the tokens that top_k leaves, as in transformers
            before = np.cumsum(probabilities) - probabilities
            probabilities = probabilities[before < sampling.top_p * probabilities.sum()]
        return int(order[self._draw(probabilities)])

    def _draw(self, weights: NDArray[np.float64]) -> int:
        """Return an index with a probability that is proportional to its weight."""
        sums = np.cumsum(weights)
        drawn = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        return min(drawn, int(np.flatnonzero(weights)[-1]))  # the product may round up to the last sum


def log_probabilities(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the logarithms of the softmax over the last axis, fp64 of the shape of `logits`, nats."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def most_likely(log_probabilities: NDArray[np.float64], count: int) -> list[int]:
    """Return the `count` most likely tokens by fp64 [vocabulary], the likeliest first; of equal ones the first."""
    if count == 0:
        return []
    candidates = np.flatnonzero(log_probabilities >= np.partition(log_probabilities, -count)[-count])
    order = np.argsort(-log_probabilities[candidates], kind="stable")
    return [int(token) for token in candidates[order][:count]]
