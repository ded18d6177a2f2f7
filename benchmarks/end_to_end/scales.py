"""Train the scales and biases of a GPTQ artifact on the whole model's KL from its source; codes stay as they are."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from end_to_end.student import Student, Teacher

BATCH = 4
WARM_UP = 20


def train(
    teacher: Teacher,
    students: dict[float, Student],
    tokens: Tensor,
    context: int,
    count: int,
    say: Callable[[str], object],
) -> int:
    """Train students in place, all on the same windows, so that the teacher runs once.

    Args:
        teacher: the source.
        students: by their rate.
        tokens: the training text, int64 [tokens].
        context: tokens of a window.
        count: tokens to train on; the text begins anew, in other windows, where it is shorter.
        say: called with the loss now and then.

    Returns:
        The tokens that they were trained on: fewer than `count` after Ctrl-C.
    """
    optimizers = {rate: torch.optim.Adam(each.trained, lr=rate, betas=(0.9, 0.99)) for rate, each in students.items()}
    steps = count // (BATCH * context)
    stops: list[int] = []
    done = 0
    signal.signal(signal.SIGINT, lambda number, _: stops.append(number))  # what is trained so far is measured
    for step, ids in zip(range(steps), _batches(tokens, context), strict=False):
        if stops:
            break
        with torch.no_grad():
            logits = teacher.logits(ids).flatten(0, 1)
            expected = logits.softmax(-1)
            least = float(F.cross_entropy(logits, expected))  # the entropy: what is left beyond it is the divergence
        share = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        losses = []
        for rate, student in students.items():
            for group in optimizers[rate].param_groups:
                group["lr"] = rate * share
            loss = F.cross_entropy(student.logits(ids).flatten(0, 1), expected)
            optimizers[rate].zero_grad()
            loss.backward()
            optimizers[rate].step()
            losses.append(f"{rate:g} {1e3 * (loss.item() - least):.2f}")
        done = step + 1
        if step % 25 == 0:
            say(f"step {step} of {steps}, mnat by rate: {', '.join(losses)}")
    for student in students.values():
        student.store()
    return done * BATCH * context


def _batches(tokens: Tensor, context: int) -> Iterator[Tensor]:
    """Yield batches of windows, int64 [batch, context], in a random order, without an end."""
    draw = torch.Generator().manual_seed(0)
    while True:
        first = int(torch.randint(context, (1,), generator=draw))
        rows = tokens[first : first + (len(tokens) - first) // context * context].view(-1, context)
        for places in torch.randperm(len(rows), generator=draw).split(BATCH):
            if len(places) == BATCH:
                yield rows[places]
