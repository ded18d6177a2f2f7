"""The answer of a result file in three sentences: its smallest variant within its gates, its fastest, its closest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pythia_quant.bench.metrics import METRICS, Value
from pythia_quant.records.results import Results, Row
from pythia_quant.report.numbers import format_value


@dataclass(frozen=True)
class Headline:
    """One answer.

    Attributes:
        title: what was asked.
        row: the name of the quantized row that is the answer; None if there is none.
        number: its value with the unit; without a row, the reason.
        details: what else is worth knowing of the row, or of those that come close.
    """

    title: str
    row: str | None
    number: str
    details: Sequence[str] = ()


def headlines(results: Results) -> list[Headline]:
    """Return the three answers; none if there is no quantized row."""
    if not any(row.quantized for row in results.rows):
        return []
    return [_smallest(results), _fastest(results), _closest(results)]


def rank_values(values: Sequence[Value | None], *, higher_is_better: bool) -> list[int | None]:
    """Return the rank of each value, from 0, the best; a value that is missing or NaN has none.

    Values within error of each other have one rank: those whose interval meets that of the best value of the rank.
    """
    places = [index for index, value in enumerate(values) if value is not None and not math.isnan(value.value)]
    sign = -1 if higher_is_better else 1
    ranks: list[int | None] = [None] * len(values)
    rank, best = -1, None
    for index in sorted(places, key=lambda place: sign * _present(values[place]).value):
        value = _present(values[index])
        if best is None or not _meet(best, value):
            rank, best = rank + 1, value
        ranks[index] = rank
    return ranks


def _present(value: Value | None) -> Value:
    assert value is not None  # noqa: S101 - the caller chose the places of values
    return value


def _meet(one: Value, other: Value) -> bool:
    return one.value == other.value or (one.low <= other.high and other.low <= one.high)


def _best(rows: Sequence[Row], key: str, results: Results) -> list[Row]:
    """Return the row with the best value, then the rows within error of it."""
    metric = METRICS[key]
    values = [metric.value_of(row, results) for row in rows]
    higher = metric.better == "higher"
    ranks = rank_values(values, higher_is_better=higher)
    first = [(row, _present(value).value) for row, value, rank in zip(rows, values, ranks, strict=True) if rank == 0]
    return [row for row, _ in sorted(first, key=lambda pair: -pair[1] if higher else pair[1])]


def _smallest(results: Results) -> Headline:
    quantized = [row for row in results.rows if row.quantized]
    outcomes = {row.name: [gate.outcome for gate in results.gates if gate.variant == row.name] for row in quantized}
    title = "Smallest within its gates" if results.gates else "Smallest"
    within = [
        row for row in quantized if not results.gates or (outcomes[row.name] and set(outcomes[row.name]) == {"passed"})
    ]
    if not within:
        return Headline(title, None, "No variant passes all of its gates.")
    row, *alike = _best(within, "bits_per_weight", results)
    baseline = results.row(results.baseline)
    ratio = baseline.bits_per_weight / row.bits_per_weight
    details = [f"{_text('disk', row, results)} on disk, {ratio:.1f} times smaller than {baseline.name}"]
    details += _names("just as small", alike)
    smaller = [other for other in quantized if other.bits_per_weight < row.bits_per_weight]
    details += _names("smaller, but not within their gates", [other for other in smaller if outcomes[other.name]])
    details += _names("smaller, but without gates", [other for other in smaller if not outcomes[other.name]])
    return Headline(title, row.name, f"{row.bits_per_weight:.2f} bits a weight", details)


def _fastest(results: Results) -> Headline:
    title = "Fastest to decode"
    best = _best([row for row in results.rows if row.quantized], "decode", results)
    if not best:
        return Headline(title, None, "Speed was not measured.")
    row, *alike = best
    details = []
    if METRICS["speedup_baseline"].value_of(row, results):
        details.append(f"{_text('speedup_baseline', row, results)} times as fast as {results.baseline}")
    details += _names("as fast within error", alike)
    others = _best([row, *(other for other in results.rows if not other.quantized)], "decode", results)
    if row not in others:
        details.append(f"unquantized and faster: {others[0].name}, {_text('decode', others[0], results)}")
    if row.speeds[0].disturbed:
        details.append(f"⚠ disturbed: {row.speeds[0].disturbed}")
    return Headline(title, row.name, _text("decode", row, results), details)


def _closest(results: Results) -> Headline:
    title = "Closest to fp16"
    finite = [row for row in results.rows if row.quantized and row.as_run and not row.as_run.non_finite]
    best = _best(finite, "kl", results)
    if not best:
        return Headline(title, None, "No quantized row was run with finite logits.")
    row, *alike = best
    details = [
        f"perplexity {_text('ppl_drift', row, results)}, the same most likely token in {_text('top1', row, results)}",
        *_names("as close within error", alike),
    ]
    return Headline(title, row.name, f"{_text('kl', row, results)} KL", details)


def _text(key: str, row: Row, results: Results) -> str:
    """Return a value with its unit and, where it is symmetric, its interval."""
    metric = METRICS[key]
    text, interval = format_value(metric, row, metric.value_of(row, results))
    between = interval if interval.startswith("±") else ""
    return " ".join(part for part in (f"{text}{between}", metric.unit) if part)


def _names(what: str, rows: Sequence[Row]) -> list[str]:
    return [f"{what}: {', '.join(row.name for row in rows)}"] if rows else []
