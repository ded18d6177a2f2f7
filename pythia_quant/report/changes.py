"""Two results compared, as a table for people and as data for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pythia_quant.bench.compare import Change, Comparison
from pythia_quant.bench.metrics import METRICS, Value

_STYLES = {"worse": "bold red", "better": "green", "changed": "yellow", "same": "dim"}


def changes_table(comparison: Comparison, *, everything: bool = False) -> RenderableType:
    """Return the table of what changed, or of everything, with the notes below it."""
    shown = [change for change in comparison.changes if everything or change.verdict != "same"]
    table = Table(box=None, padding=(0, 1, 0, 0))
    for index, heading in enumerate(("row", "value", "before", "after", "difference", "")):
        table.add_column(heading, justify="right" if 2 <= index <= 4 else "left")
    for change in shown:
        metric = METRICS[change.metric]
        unit = f", {metric.unit}" if metric.unit else ""
        cells = (escape(change.row), f"{metric.label}{unit}", _number(change.before.value), _number(change.after.value))
        style = _STYLES[change.verdict]
        table.add_row(*cells, _interval(change.difference), change.verdict, style=style)
    same = sum(change.verdict == "same" for change in comparison.changes)
    summary = f"{len(comparison.changes)} values compared, {same} are the same within their error."
    parts: list[RenderableType] = [table] if shown else []
    return Group(*parts, Text("\n".join([summary, *comparison.notes]), style="dim"))


def changes_data(comparison: Comparison) -> dict[str, Any]:
    """Return the same as JSON data: every value, with its unit."""
    return {"changes": [_entry(change) for change in comparison.changes], "notes": comparison.notes}


def _entry(change: Change) -> dict[str, Any]:
    values = {name: getattr(change, name)._asdict() for name in ("before", "after", "difference")}
    return asdict(change) | values | {"unit": METRICS[change.metric].unit}


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _interval(value: Value) -> str:
    return f"{value.value:+.3g} [{value.low:+.3g}, {value.high:+.3g}]"
