"""What a measurement of speed will do: its lengths, its repetitions, its rounds and its steps."""

from __future__ import annotations

from collections.abc import Sequence

from pythia_quant.recipe.measurement import DECODED, LatencySettings
from pythia_quant.records.protocols import LatencyProtocol

PROMPTS = (128, 512, 2048)
"""The tokens of the prompts, where the recipe says nothing."""
CONTEXTS = (128, 384, 896, 1920)
"""The tokens before the decoded ones, where the recipe says nothing; those fit into 256, 512, 1024 and 2048 tokens."""
WARM_UP = 2
"""The runs, and the decoded tokens, before the first sample."""
REPETITIONS = 10
"""The samples of a prompt in one pass."""
PASSES = 4
"""The most passes over all lengths in one process."""
PATIENCE = 20.0
"""The most seconds to wait for a quiet machine before the first measurement."""
WAITING = "waiting until nothing else runs"
"""The name of the step before the first measurement."""


def latency_protocol(settings: LatencySettings, context: int) -> LatencyProtocol:
    """Return the lengths at which to measure a model: those of the recipe, or by default those that fit.

    If no default length fits, there is one prompt and one context, of half the model's context.

    Args:
        settings: the latency settings of the recipe.
        context: the model's context, tokens.
    """
    half = max(1, context // 2)
    prompts = settings.prompts or [tokens for tokens in PROMPTS if tokens <= context] or [half]
    contexts = settings.contexts or [tokens for tokens in CONTEXTS if tokens + DECODED <= context] or [half]
    room = min(DECODED, context - max(contexts))
    warm_up = min(WARM_UP, room - 1)
    return LatencyProtocol(
        prompts=sorted(set(prompts)),
        contexts=sorted(set(contexts)),
        decoded=room - warm_up,
        repetitions=REPETITIONS,
        warm_up=warm_up,
        passes=PASSES,
        rounds=settings.rounds,
    )


def speed_steps(rows: int, rounds: int, more_threads: int = 0) -> int:
    """Return the number of progress steps of :func:`pythia_quant.bench.speed.measure_speeds`.

    Args:
        rows: the number of rows.
        rounds: the number of rounds with the first number of threads.
        more_threads: how many other numbers of threads there are.
    """
    return 1 + rows * (rounds + more_threads)


def rounds_of(rounds: int, threads: Sequence[int]) -> list[tuple[str, int]]:
    """Return the name of each round and its number of threads; the rounds themselves have the first number."""
    named = [(f"round {number + 1} of {rounds}", threads[0]) for number in range(rounds)]
    return named + [(f"{count} threads", count) for count in threads[1:]]
