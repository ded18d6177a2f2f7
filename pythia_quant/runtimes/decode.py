"""Choose token after token, from the logits of a prompt on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pythia_quant.core.errors import BenchmarkError
from pythia_quant.runtimes.sampling import Sampler


class Chosen(NamedTuple):
    """A new token, and the logits that it was chosen from, fp32 [vocabulary]."""

    token: int
    logits: NDArray[np.float32]


def decode(
    logits: Tensor,
    step: Callable[[int], Tensor],
    read: int,
    count: int,
    ends: Collection[int],
    sampler: Sampler,
    where: str,
) -> Iterator[Chosen]:
    """Yield new tokens. Before the next one is asked for, nothing is computed for it.

    Args:
        logits: those of the prompt's last position, fp32 [vocabulary].
        step: appends a token to the sequence, and returns the logits of its position, fp32 [vocabulary].
        read: the tokens of the prompt, for messages.
        count: the most tokens to add.
        ends: the tokens that end the text. If one is chosen, it is not yielded; fewer than `count` tokens then were.
        sampler: chooses.
        where: the description of the runtime, for messages.

    Raises:
        BenchmarkError: logits are not finite, so that no token is the most likely one.
    """
    for added in range(count):
        if not torch.isfinite(logits).all():
            raise BenchmarkError(
                f"after {read + added} tokens, logits are not finite: no token can be chosen",
                where=where,
                hint="the weights are damaged, or too large for the dtype they are run in",
            )
        values: NDArray[np.float32] = logits.numpy()
        token = sampler.choose(values)
        if token in ends:
            return
        yield Chosen(token, values)
        if added + 1 < count:
            logits = step(token)
