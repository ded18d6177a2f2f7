"""Numbers as text: few digits, aligned in columns, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pythia_quant.bench.metrics import Metric, Value
from pythia_quant.records.results import Row

_DECIMALS = {"prefill": 0, "memory": 0, "disk": 1, "bits_per_byte": 3, "limit_share": 1, "first_token": 1}
_SIGNED = ("ppl_drift", "ppl_drift_weights")


class FormattedValue(NamedTuple):
    """A number as text, and its interval: ``±`` half its width, from–to where it is asymmetric, or empty."""

    text: str
    interval: str


def format_value(metric: Metric, row: Row, value: Value | None) -> FormattedValue:
    """Return a value as text; of a value that is missing or not finite, the reason."""
    if value is None or not math.isfinite(value.value):
        return FormattedValue(_reason(metric, row, value), "")
    return format_number(metric, value)


def format_number(metric: Metric, value: Value) -> FormattedValue:
    """Return a finite value as text."""
    decimals = _decimals(metric, value.value)
    sign = "+" if metric.key in _SIGNED else ""
    text = f"{value.value:{sign},.{decimals}f}"
    if not float(text.replace(",", "")):
        text = text.lstrip("+-")
        if value.value > 0 and metric.unit == "mnat":
            return FormattedValue(f"<{10**-decimals:.{decimals}f}", "")
    return FormattedValue(text, _interval(metric, value, decimals))


def format_plus_minus(metric: Metric, row: Row, value: Value | None) -> FormattedValue:
    """Return a value as :func:`format_value` does, but its interval always as ``±`` its wider side.

    A ratio is rounded to two figures of that side, which is often larger than the ratio.
    """
    shown = format_value(metric, row, value)
    if not shown.interval or value is None:
        return shown
    wider = max(value.high - value.value, value.value - value.low)
    decimals = _decimals(metric, value.value)
    if metric.key.startswith("speedup"):
        decimals = 2 if wider < 0.995 else 1 if wider < 9.95 else 0
        of_value = decimals or int(abs(value.value) < 0.5)
        return FormattedValue(f"{value.value:,.{of_value}f}", f"±{wider:,.{decimals}f}")
    return FormattedValue(shown.text, f"±{wider:,.{decimals}f}")


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, which takes an s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def missing_characters(texts: Sequence[str]) -> list[int]:
    """Return how many characters must follow each number so that the decimal points of a column are aligned."""
    ends = [len(text) - text.index(".") if "." in text else 0 for text in texts]
    longest = max((end for text, end in zip(texts, ends, strict=True) if text[-1:].isdigit()), default=0)
    return [longest - end if text[-1:].isdigit() else 0 for text, end in zip(texts, ends, strict=True)]


def _decimals(metric: Metric, value: float) -> int:
    if abs(value) >= 1000:
        return 0
    if metric.unit == "mnat":
        return 4 if value < 0.095 else 2 if value < 100 else 1  # the fp16 floor is that small
    return _DECIMALS.get(metric.key, 2)


def _interval(metric: Metric, value: Value, decimals: int) -> str:
    if value.low == value.high:
        return ""
    above, below = value.high - value.value, value.value - value.low
    if metric.protocol != "latency" and math.isclose(above, below, rel_tol=1e-6):
        return f"±{above:,.{decimals}f}"
    return f"{value.low:,.{decimals}f}–{value.high:,.{decimals}f}"


def _reason(metric: Metric, row: Row, value: Value | None) -> str:
    if value is not None:
        return "not finite"
    if metric.protocol == "windows" and not metric.key.endswith("_weights"):
        if row.as_run is None:
            return "not run"
        if row.as_run.non_finite:
            return "not finite"
    return "–"
