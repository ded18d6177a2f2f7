"""What a user asks for: limits on drift, or on size, and what is to be as small as possible within them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from pythia_quant.bench.metrics import METRICS, Value
from pythia_quant.bench.statistics import BATCHES
from pythia_quant.core.errors import ArgumentError, nearest
from pythia_quant.core.text import short
from pythia_quant.recipe.measurement import GateSettings
from pythia_quant.recipe.yaml_lines import parse_value
from pythia_quant.records.results import Results

Objective = Literal["size", "kl"]

DRIFT_LIMITS = ("max_kl", "max_ppl_drift", "min_top1")
_METRIC = {"max_kl": "kl", "max_ppl_drift": "ppl_drift", "min_top1": "top1"}

ONE_KIND = 0.25
"""By how much drift may grow on other text, whatever a selection text of one kind says. On documents that the demo has
not seen, of the kind it was trained on, its KL divergence is 1.05 to 1.27 times that of its calibration text
(docs/tune.md), and stretches of a text that was seen do not show that."""

TOP1_OF_KL = 0.47
"""The square of the share of changed tokens, over the KL divergence in nats: 0.47 of every row of the demo's table."""


@dataclass(frozen=True)
class Budget:
    """Limits, and what is minimized within them.

    Attributes:
        minimize: the objective.
        drift: limits on drift, as gates are; empty if the size is limited.
        size: the most bytes of the artifact's files of weights; None if drift is limited.
        margin: the share of a limit on drift that is kept for other text; None if the selection text decides.
        least_margin: the least share of a drift by which it may be larger on other text, if the selection text decides.
    """

    minimize: Objective
    drift: dict[str, float]
    size: int | None = None
    margin: float | None = None
    least_margin: float = ONE_KIND

    def describe(self) -> str:
        """Return the limits in a few words."""
        if self.size is not None:
            return f"size ≤ {self.size / 1e6:g} MB"
        signs = {"max_kl": "KL ≤ {:g} mnat", "max_ppl_drift": "perplexity drift ≤ {:g} %", "min_top1": "top-1 ≥ {:g} %"}
        return ", ".join(signs[name].format(limit) for name, limit in self.drift.items())

    def first_limit(self) -> float:
        """Return the sum of divergences in nats to begin with, as if what tensors cost alone added up."""
        guesses = {"max_kl": _of_kl, "max_ppl_drift": _of_perplexity, "min_top1": _of_top1}
        return min(guesses[name](limit) for name, limit in self.drift.items())

    def use(self, results: Results) -> float:
        """Return how much of the budget a measured row uses: at most 1 if every interval lies within its limit."""
        return self._worst(results, 1.0, 0.0)

    def use_elsewhere(self, results: Results) -> float:
        """Return how much of the budget a row is expected to use at most on a text other than the measured one.

        A mean of K stretches has the interval ± t s / √K, with the scatter s of the stretches. One more stretch of
        such text lies within ± t s √(1 + 1/K) of the mean (the prediction interval of a single draw), and this is the
        interval, √(K + 1) times as wide. So a text may differ from the selection text as much as stretches of that
        differ from each other; but at least by `least_margin`. With a margin of its own, the interval must lie within
        what that leaves of the limit.
        """
        if self.margin is not None:
            return self.use(results) / (1 - self.margin)
        stretches = min(BATCHES, results.protocol.windows)
        return self._worst(results, math.sqrt(stretches + 1), self.least_margin)

    def _worst(self, results: Results, widened: float, least: float) -> float:
        return max(self._use(name, limit, results, widened, least) for name, limit in self.drift.items())

    def _use(self, name: str, limit: float, results: Results, widened: float, least: float) -> float:
        value = value_of(results, _METRIC[name])
        if not math.isfinite(value.value):
            return math.inf
        if name == "min_top1":  # the divergence grows with the square of the share of changed tokens
            changed = 100 - value.value
            more = max(widened * (value.value - value.low), (math.sqrt(1 + least) - 1) * changed)
            return ((changed + more) / max(100 - limit, 1e-9)) ** 2
        more = max(widened * (value.high - value.value), least * abs(value.value))
        return max(value.value + more, 0.0) / max(limit, 1e-12)


def _of_kl(limit: float) -> float:
    return limit / 1000


def _of_perplexity(limit: float) -> float:
    return math.log1p(limit / 100)  # the loss grows by about the divergence


def _of_top1(limit: float) -> float:
    return (1 - limit / 100) ** 2 / TOP1_OF_KL


def value_of(results: Results, metric: str) -> Value:
    """Return a metric of the only row of results; the worst one if logits were not finite."""
    value = METRICS[metric].value_of(results.rows[0], results)
    worst = -math.inf if metric == "top1" else math.inf
    return value or Value(worst, worst, worst)


def parse_budget(within: str | None, size: str | None, minimize: str | None, margin: float | None = None) -> Budget:
    """Return the budget that a command line says.

    Args:
        within: limits on drift, such as ``max_kl: 5 mnat``; several are separated by commas.
        size: such as ``60MB``.
        minimize: ``size`` or ``kl``; by default what suits the limits.
        margin: the percentage of a limit on drift that is kept for other text.

    Raises:
        ArgumentError: both limits or none are given, one is no limit, or the objective does not suit.
    """
    if (within is None) == (size is None):
        hint = 'give --within "max_kl: 5 mnat", or --size 60MB'
        raise ArgumentError("exactly one of them is needed", where="--within and --size", hint=hint)
    objective = minimize or ("size" if size is None else "kl")
    suits = ("size",) if size is None else ("kl",)
    if objective not in suits:
        limit = "--within" if size is None else "--size"
        raise ArgumentError(f"{short(objective)} does not go with {limit}", where="--minimize", hint=" or ".join(suits))
    if size is not None:
        if margin is not None:
            raise ArgumentError("goes with limits on drift", where="--margin", hint="leave it out with --size")
        return Budget("kl", {}, _parse_size(size))
    return Budget("size", _parse_limits(within or ""), margin=None if margin is None else margin / 100)


def _parse_limits(text: str) -> dict[str, float]:
    where = "--within"
    data: Any = parse_value(f"{{{text.strip().removeprefix('{').removesuffix('}')}}}", where)
    hint = 'give limits such as "max_kl: 5 mnat" or "max_ppl_drift: 1 %, min_top1: 95 %"'
    if not isinstance(data, dict) or not data:
        raise ArgumentError(f"{short(text)} is no limit", where=where, hint=hint)
    for name in data:
        if name not in DRIFT_LIMITS:
            raise ArgumentError(f"{short(name)} is no limit on drift; {nearest(str(name), DRIFT_LIMITS)}", where=where)
    try:
        gates = GateSettings.model_validate(data)
    except ValidationError as error:
        raise ArgumentError(error.errors(include_url=False)[0]["msg"], where=where, hint=hint) from error
    return {name: float(limit) for name, limit in gates.model_dump(exclude_none=True).items()}


def _parse_size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([kmg])(i?)b", text.strip(), re.IGNORECASE)
    if not match:
        raise ArgumentError(f"{short(text)} is no size", where="--size", hint="give one such as 60MB or 1.5GiB")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** (" KMG".index(prefix.upper())))
