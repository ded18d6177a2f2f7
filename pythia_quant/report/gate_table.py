"""The gates of a result file as a table of variants by limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pythia_quant.bench.gates import GATES
from pythia_quant.bench.metrics import METRICS, Metric, Value
from pythia_quant.records.results import GateOutcome, Results
from pythia_quant.report.numbers import format_value


@dataclass(frozen=True)
class GateColumn:
    """The gates of one name: the metric, ``at most`` or ``at least``, and the limit if all variants have the same."""

    name: str
    metric: Metric
    side: str
    limit: str


@dataclass(frozen=True)
class GateCell:
    """One gate of one variant.

    Attributes:
        outcome: passed, failed or undecided.
        value: the measured value.
        interval: its interval, as the table of all rows shows it.
        limit: the limit; empty if it stands in the heading.
        windows: how many windows would decide the gate; empty if it is decided.
    """

    outcome: str
    value: str
    interval: str
    limit: str
    windows: str


@dataclass(frozen=True)
class GateTable:
    """Gates by variant: a line has a cell for each column, None where the variant has no such gate."""

    columns: list[GateColumn]
    lines: list[tuple[str, list[GateCell | None]]]


def gate_table(results: Results) -> GateTable:
    """Return the gates of all variants that have any, in the order of the rows."""
    columns = []
    for name, gate in GATES.items():
        limits = {outcome.limit for outcome in results.gates if outcome.gate == name}
        if limits:
            side = "at most" if gate.at_most else "at least"
            limit = f"{limits.pop():g}" if len(limits) == 1 else ""
            columns.append(GateColumn(name, METRICS[gate.metric], side, limit))
    decided = {(outcome.variant, outcome.gate): outcome for outcome in results.gates}
    lines = []
    for row in results.rows:
        outcomes = [(column, decided.get((row.name, column.name))) for column in columns]
        if any(outcome for _, outcome in outcomes):
            lines.append(
                (row.name, [_cell(outcome, column, results) if outcome else None for column, outcome in outcomes])
            )
    return GateTable(columns, lines)


def _cell(outcome: GateOutcome, column: GateColumn, results: Results) -> GateCell:
    row = results.row(outcome.variant)
    value = None if math.isnan(outcome.value) else Value(outcome.value, outcome.low, outcome.high)
    text, interval = format_value(column.metric, row, value)
    return GateCell(
        outcome.outcome,
        "not measured" if text == "–" else text,
        interval,
        "" if column.limit else f"{outcome.limit:g}",
        f"about {outcome.windows_needed:,} windows would decide" if outcome.windows_needed else "",
    )
