"""Gates: limits on measured values, decided by the value's 95 % interval and not by the value."""

from __future__ import annotations

import math
from typing import Literal

from pythia_quant.bench.statistics import Estimate, estimate, paired, spread
from pythia_quant.recipe import GateSettings
from pythia_quant.results import GateOutcome, Results, Row

Outcome = Literal["passed", "failed", "undecided"]


def evaluate_gates(results: Results, gates: dict[str, GateSettings]) -> list[GateOutcome]:
    """Decide every gate of every variant that was measured, as run.

    A gate is undecided when the limit lies within the value's interval. `windows_needed` is how many windows would
    narrow the interval to the distance of the limit, were the value to stay.
    """
    outcomes = []
    for row in results.rows:
        gate = gates.get(row.name)
        if gate is None:
            continue
        if gate.max_ppl_drift is not None:
            outcomes.append(
                _decide(row, "max_ppl_drift", gate.max_ppl_drift, ppl_drift_percent(row, results), at_most=True)
            )
        if gate.min_top1 is not None:
            outcomes.append(_decide(row, "min_top1", gate.min_top1, top1_percent(row), at_most=False))
        if gate.min_speedup is not None and row.speed is not None:
            outcomes.append(_speedup(row, gate.min_speedup, results))
    return outcomes


def ppl_drift_percent(row: Row, results: Results) -> Estimate:
    """Return by how many percent the row's perplexity, as run, differs from the reference's."""
    if row.as_run.non_finite:
        return Estimate(math.inf, 0.0, len(results.reference_nll))
    log_ratio = paired(row.as_run.nll, results.reference_nll)
    return Estimate(
        100 * math.expm1(log_ratio.value), 100 * math.exp(log_ratio.value) * log_ratio.error, log_ratio.count
    )


def top1_percent(row: Row) -> Estimate:
    """Return the percentage of positions whose most likely token is the reference's."""
    if row.as_run.non_finite:
        return Estimate(0.0, 0.0, 2)
    return estimate([100 * share for share in row.as_run.top1])


def fastest_unquantized(results: Results) -> Row | None:
    """Return the unquantized row with the fastest decode."""
    timed = [row for row in results.rows if not row.quantized and row.speed]
    return min(timed, key=decode_seconds, default=None)


def decode_seconds(row: Row) -> float:
    """Return the median seconds a token of a row whose speed was measured."""
    assert row.speed is not None  # noqa: S101
    return spread(row.speed.decode_seconds)[1]


def _decide(row: Row, gate: str, limit: float, value: Estimate, *, at_most: bool) -> GateOutcome:
    low, high = value.value - value.margin, value.value + value.margin
    within, outside = (high <= limit, low > limit) if at_most else (low >= limit, high < limit)
    outcome: Outcome = "passed" if within else "failed" if outside else "undecided"
    distance, needed = abs(value.value - limit), None
    if outcome == "undecided" and distance > 0:
        needed = math.ceil(value.count * (value.margin / distance) ** 2)
    return GateOutcome(
        variant=row.name,
        gate=gate,
        limit=limit,
        value=value.value,
        low=low,
        high=high,
        outcome=outcome,
        windows_needed=needed,
    )


def _speedup(row: Row, limit: float, results: Results) -> GateOutcome:
    """Compare decode medians; the interval is spanned by the 10th and 90th percentiles of both rows' samples."""
    fastest = fastest_unquantized(results)
    assert row.speed is not None and fastest is not None and fastest.speed is not None  # noqa: S101, PT018
    other_low, other_middle, other_high = spread(fastest.speed.decode_seconds)
    low, middle, high = spread(row.speed.decode_seconds)
    least, most = other_low / high, other_high / low
    outcome: Outcome = "passed" if least >= limit else "failed" if most < limit else "undecided"
    return GateOutcome(
        variant=row.name,
        gate="min_speedup",
        limit=limit,
        value=other_middle / middle,
        low=least,
        high=most,
        outcome=outcome,
    )
