"""The points that a law is fitted to: what each variant cost at each checkpoint, in nats per token."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pythia_quant.bench.statistics import BATCHES, Estimate
from pythia_quant.core.errors import ArgumentError, nearest
from pythia_quant.model import suite
from pythia_quant.model.schedule import WARM_UP_STEPS
from pythia_quant.sweep.jobs import FLOOR

_NATS = {"ppl_drift": True, "ppl_drift_weights": True, "kl": False, "kl_weights": False}
"""The metrics that are a loss increase: whether they are drifts in percent, or divergences in mnat."""


@dataclass(frozen=True)
class Point:
    """What one variant cost at one checkpoint.

    Attributes:
        increase: the increase of the loss, nats per token.
        error: its standard error, nats per token.
        tokens: the tokens of training.
        parameters: the parameters outside embeddings.
        bits: the bits of a weight's code.
        share: the learning rate over its largest, above 0 and at most 1; None during warm-up or if it is not known.
        run: the training run. Its checkpoints may have deviations from the law in common.
        source: the checkpoint, for people.
        variant: the variant.
    """

    increase: float
    error: float
    tokens: float
    parameters: float
    bits: float
    share: float | None
    run: str
    source: str = ""
    variant: str = ""


@dataclass(frozen=True)
class Selection:
    """The points of a table, and how many of its lines were left out, by the reason."""

    points: list[Point]
    left_out: dict[str, int]


def points_of(lines: Sequence[Mapping[str, Any]], metric: str = "ppl_drift_weights") -> Selection:
    """Return the points of a table's lines. Give the lines of one method: the law has one k.

    A drift of x % is an increase of ln(1 + x / 100) nats per token, exactly. The drift of the weights is the default,
    because P counts the bits of weights; the drift as run also has the rounding of activations and of the arithmetic. A
    KL divergence is the increase for tokens that the reference model itself would write: it has less noise, and is
    not what the papers fit.

    Args:
        lines: lines as :func:`pythia_quant.sweep.table.read_table` gives them.
        metric: ``ppl_drift_weights``, ``ppl_drift``, ``kl_weights`` or ``kl``.

    Raises:
        ArgumentError: the metric is no loss increase.
    """
    if metric not in _NATS:
        raise ArgumentError(f"{metric!r} is no increase of the loss", hint=nearest(metric, _NATS))
    points: list[Point] = []
    left_out: Counter[str] = Counter()
    for line in lines:
        point = _point(line, metric)
        if isinstance(point, str):
            left_out[point] += 1
        else:
            points.append(point)
    return Selection(points, dict(left_out))


def _point(line: Mapping[str, Any], metric: str) -> Point | str:
    """Return a line's point, or why it is none."""
    if line["status"] != "done":
        return f"the status is {line['status']}, not done"
    if line["duplicate_of"] is not None:
        return "the weights are those of another line"
    if line["variant"] == FLOOR:
        return f"{FLOOR} is not quantized"
    if not line["tokens"] or not line["non_embedding_parameters"] or not line["bits"]:
        return "no training tokens, parameters or bits are known"
    value, low, high = (line[name] for name in (metric, f"{metric}_low", f"{metric}_high"))
    count = min(BATCHES, line["windows"] or 0)
    if value is None or low is None or high is None or count < 2:
        return f"there is no finite {metric} with an interval"
    error = (high - low) / 2 / Estimate(0.0, 1.0, count).margin
    # The table has the error of the ratio, which the delta method made of that of the logarithm.
    ratio = 1 + value / 100
    increase, error = (math.log(ratio), error / 100 / ratio) if _NATS[metric] else (value / 1e3, error / 1e3)
    return Point(
        increase, error, line["tokens"], line["non_embedding_parameters"], line["bits"], _share(line), _run(line),
        f"{line['model']}@{line['revision']}", line["variant"],
    )  # fmt: skip


def _share(line: Mapping[str, Any]) -> float | None:
    """Return the learning rate's share of its largest, from the end of warm-up on: before it nothing has decayed."""
    size, rate, step = suite.SIZES.get(line["size"]), line["learning_rate"], line["step"]
    return None if size is None or not rate or step is None or step < WARM_UP_STEPS else rate / size.max_learning_rate


def _run(line: Mapping[str, Any]) -> str:
    """Return the name of a training run. Outside the suite each revision may be a model of its own name."""
    model = str(line["model"])
    return model if _of_suite(model) else " ".join(str(line[name]) for name in ("size", "family", "seed"))


@cache
def _of_suite(model: str) -> bool:
    return suite.find(model) is not None
