"""How the suite was trained, step by step: the learning rate, and the tokens that were seen.

Sources: arXiv 2304.01373 and models/*.yml of EleutherAI/pythia for the settings, which all models share but for the
largest rate; EleutherAI/gpt-neox, megatron/learning_rates.py before pull request 1008, for the formula. That pull
request says that Pythia was trained by it. Its cosine runs towards 0, not towards 10 % of the largest rate as planned,
so the rate is at 10 % from step 115,140 on, not only at the end.
"""

from __future__ import annotations

import math

from pythia_quant.model.suite import CONTEXT, LAST_STEP, Size

TOKENS_PER_STEP = 1024 * CONTEXT

WARM_UP_STEPS = LAST_STEP // 100

_SMALLEST_SHARE = 0.1


def tokens_seen(step: int) -> int:
    """Return how many tokens a model has been trained on at the revision ``step<N>``.

    This holds for the v0 families, too: the hub numbers their revisions as if all batches had been of this size.
    """
    return step * TOKENS_PER_STEP


def learning_rate(size: Size, step: int) -> float:
    """Return the learning rate of the update that follows `step`: linear from 0, then a cosine, then constant.

    Args:
        size: the size, which decides about the largest rate.
        step: the updates before, from 0 to 143,000. After the last step no update follows; its rate is that of the end.
    """
    if step <= WARM_UP_STEPS:
        return size.max_learning_rate * step / WARM_UP_STEPS
    cosine = math.cos(math.pi * (step - WARM_UP_STEPS) / LAST_STEP)
    return size.max_learning_rate * max((1 + cosine) / 2, _SMALLEST_SHARE)
