"""Gates: limits on measured values. A gate is decided by the 95 % interval of the value, not by the value alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pythia_quant.bench.metrics import METRICS, Value, fastest_unquantized
from pythia_quant.recipe.measurement import GateSettings
from pythia_quant.records.results import GateOutcome, Results, Row

Outcome = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Gate:
    """The metric that a gate limits. If `at_most`, the limit is the largest value that passes, else the smallest."""

    metric: str
    at_most: bool


GATES = {
    "max_ppl_drift": Gate("ppl_drift", at_most=True),
    "max_kl": Gate("kl", at_most=True),
    "min_top1": Gate("top1", at_most=False),
    "min_speedup": Gate("speedup", at_most=False),
}
"""The gates by the names that recipes use. A limit has the unit of its metric."""


def apply_gates(results: Results, gates: dict[str, GateSettings]) -> Results:
    """Return results with the outcomes of the gates; a note of the row names each gate that has no outcome.

    Args:
        results: the measurements.
        gates: the limits of each variant, by its name.
    """
    rows = []
    for row in results.rows:
        absent = {name: reason for name, _ in _limits(row, gates) if (reason := _why_absent(name, row, results))}
        notes = [f"no gate {name}: {reason}" for name, reason in absent.items()]
        rows.append(row.model_copy(update={"notes": [*row.notes, *notes]}) if absent else row)
    return results.model_copy(update={"rows": rows, "gates": evaluate_gates(results, gates)})


def evaluate_gates(results: Results, gates: dict[str, GateSettings]) -> list[GateOutcome]:
    """Decide every gate of every variant that was measured.

    A gate is undecided if the limit lies within the value's interval, or if there is no value. `windows_needed` is the
    number of windows with which the interval would end at the limit, if the value stayed the same. A gate on speed has
    no outcome if no speed was to be measured: the recipe asks for none, or a model does not fit in memory whole.

    Args:
        results: the measurements.
        gates: the limits of each variant, by its name.
    """
    return [
        _decide(row, name, limit, results)
        for row in results.rows
        for name, limit in _limits(row, gates)
        if not _why_absent(name, row, results)
    ]


def _limits(row: Row, gates: dict[str, GateSettings]) -> list[tuple[str, float]]:
    if row.foreign or row.name not in gates:  # a recipe limits its own variants, not what others call the same
        return []
    return list(gates[row.name].model_dump(exclude_none=True).items())


def _why_absent(name: str, row: Row, results: Results) -> str:
    """Return why a gate has no outcome: what it limits was not to be measured. Empty if it was."""
    if METRICS[GATES[name].metric].protocol != "latency":
        return ""
    if results.latency is None:
        return "the recipe asks for no speed (latency.rounds is 0)"
    if not row.speeds:
        return "the speed of a model that does not fit in memory whole is not measured"
    if fastest_unquantized(results) is None:
        return "no unquantized row fits in memory whole, so none has a speed to compare with"
    return ""


def _decide(row: Row, name: str, limit: float, results: Results) -> GateOutcome:
    gate = GATES[name]
    metric = METRICS[gate.metric]
    value = metric.value_of(row, results) or _without_value(row, gate)
    if gate.at_most:
        within, outside = value.high <= limit, value.low > limit
    else:
        within, outside = value.low >= limit, value.high < limit
    outcome: Outcome = "passed" if within else "failed" if outside else "undecided"
    distance, needed = abs(value.value - limit), None
    if outcome == "undecided" and metric.protocol == "windows" and 0 < distance < math.inf:
        needed = math.ceil(results.protocol.windows * ((value.high - value.low) / 2 / distance) ** 2)
    return GateOutcome(
        variant=row.name,
        gate=name,
        limit=limit,
        value=value.value,
        low=value.low,
        high=value.high,
        outcome=outcome,
        windows_needed=needed,
    )


def _without_value(row: Row, gate: Gate) -> Value:
    """Return the value of a row that has none: the worst if logits were not finite, else NaN within infinite limits."""
    if row.as_run is not None and row.as_run.non_finite and METRICS[gate.metric].protocol == "windows":
        worst = math.inf if gate.at_most else -math.inf
        return Value(worst, worst, worst)
    return Value(math.nan, -math.inf, math.inf)


def describe_gate(outcome: GateOutcome) -> str:
    """Return one sentence that names the gate, its outcome, and the distance from the limit."""
    gate = GATES[outcome.gate]
    unit = f" {METRICS[gate.metric].unit}".rstrip()
    measured = f"{outcome.value:.3g} [{outcome.low:.3g}, {outcome.high:.3g}]{unit}"
    if math.isnan(outcome.value):
        measured = "it was not measured"
    sentence = f"Gate {outcome.gate} {outcome.limit:g}{unit} of {outcome.variant} {outcome.outcome}: {measured}"
    if outcome.outcome == "failed" and math.isfinite(outcome.value):
        sentence += f", {abs(outcome.value - outcome.limit):.3g}{unit} beyond it"
    if outcome.windows_needed:
        sentence += f"; about {outcome.windows_needed:,} windows would decide"
    return f"{sentence}."
