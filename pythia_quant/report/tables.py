"""Result files as Markdown for a model card, CSV for a spreadsheet and JSON for a program."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from typing import Any, Literal

from pythia_quant.bench.agreement import describe_published, lambada_agreement
from pythia_quant.bench.gates import describe_gate
from pythia_quant.bench.metrics import METRICS, Metric
from pythia_quant.core.text import printable, printable_json
from pythia_quant.records.results import Results, Row
from pythia_quant.report.facts import (
    PERCENTILES,
    QUICK,
    latency_line,
    machine_line,
    made_by,
    reference_line,
    remarks,
    size_line,
    source_line,
    text_line,
)
from pythia_quant.report.files import ResultFile
from pythia_quant.report.numbers import format_value

TableFormat = Literal["markdown", "csv", "json"]

SUFFIXES: dict[TableFormat, str] = {"markdown": "md", "csv": "csv", "json": "json"}
"""The suffix of a table's file."""

COLUMNS = {
    "ppl_drift": "ppl drift", "kl": "KL", "top1": "top-1", "bits_per_weight": "bits a weight", "disk": "disk",
    "prefill": "prefill", "decode": "decode", "speedup_baseline": "× baseline", "memory": "peak memory",
}  # fmt: skip
"""The columns of a Markdown table, and their headings there."""
_MARKUP = re.compile(r"([\\`*_{}\[\]|$~#])")
_FORMULA = ("=", "+", "-", "@")


def render_table(files: Sequence[ResultFile], form: TableFormat) -> str:
    """Return the values of result files as a table in the format `form`."""
    if form == "markdown":
        return "\n".join(_markdown(file) for file in files)
    records = [record for file in files for record in tidy_records(file.results, file.label)]
    if form == "json":
        text = json.dumps([_without_infinity(record) for record in records], indent=1, ensure_ascii=False)
        return printable_json(text) + "\n"
    stream = StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: guard_cell(value) for key, value in record.items()} for record in records)
    return stream.getvalue()


FIELDS = (
    "file", "model", "revision", "commit", "text", "text_sha256", "row", "quantized", "metric", "value", "low", "high",
    "interval", "unit", "better", "protocol", "machine", "cores", "threads", "runtime", "created", "disturbed",
    "published", "agrees", "made_by",
)  # fmt: skip
"""The columns of a tidy table, which has a line for each measured value."""


def tidy_records(results: Results, label: str) -> Iterator[dict[str, Any]]:
    """Yield one record for each measured value of each row; its keys are :data:`FIELDS`, in their order.

    Args:
        results: what was measured.
        label: the name of the result file.
    """
    for row in results.rows:
        yield from row_records(row, results, label)


def row_records(row: Row, results: Results, label: str) -> Iterator[dict[str, Any]]:
    """Yield the records of one row; see :func:`tidy_records`."""
    baseline = row.name == results.baseline
    published = {one.metric: one for one in lambada_agreement(results)} if baseline else {}
    for metric in METRICS.values():
        value = metric.value_of(row, results)
        if value is None:
            continue
        yield {
            "file": label,
            "model": results.source.model,
            "revision": results.source.revision,
            "commit": results.source.commit or "",
            "text": results.text.name,
            "text_sha256": results.text.sha256,
            "row": row.name,
            "quantized": row.quantized,
            "metric": metric.key,
            "value": value.value,
            "low": value.low,
            "high": value.high,
            "interval": _interval(metric, row),
            "unit": metric.unit,
            "better": metric.better,
            "protocol": _protocol(metric, results),
            "machine": machine_line(results),
            "cores": results.machine.cores,
            "threads": row.speeds[0].threads if row.speeds else None,
            "runtime": row.runtime,
            "created": results.created.isoformat(),
            "disturbed": row.speeds[0].disturbed if row.speeds and metric.protocol == "latency" else "",
            "published": published[metric.key].published if metric.key in published else None,
            "agrees": published[metric.key].agrees if metric.key in published else None,
            "made_by": made_by(row),
        }


def rows_json(results: Results, keys: Sequence[str] | None = None) -> str:
    """Return the rows of a result, in their order, as JSON: of each the values by their metrics, and its gates.

    Args:
        results: what was measured.
        keys: the metrics; by default all that have a value. Other keys are left out.
    """
    rows = []
    for row in results.rows:
        metrics = METRICS.values() if keys is None else [METRICS[key] for key in keys if key in METRICS]
        values = {metric.key: (metric.value_of(row, results), metric.unit) for metric in metrics}
        shown = {
            key: _without_infinity(value._asdict()) | {"unit": unit} for key, (value, unit) in values.items() if value
        }
        gates = {gate.gate: gate.outcome for gate in results.gates if gate.variant == row.name}
        rows.append(
            {"row": row.name, "made_by": made_by(row), "quantized": row.quantized, "values": shown, "gates": gates}
        )
    source = results.source
    facts = {"model": source.model, "revision": source.revision, "commit": source.commit, "baseline": results.baseline}
    return json.dumps(facts | {"created": results.created.isoformat(), "rows": rows}, indent=1, ensure_ascii=False)


def _interval(metric: Metric, row: Row) -> str:
    """Return what low and high are: a 95 % interval of a mean, percentiles of samples, or empty."""
    if metric.protocol == "size":
        return ""
    mean = metric.key.startswith("speedup") and len(row.speeds[0].processes) > 1
    return "95 %" if mean or metric.protocol != "latency" else "10 % to 90 %"


def _protocol(metric: Metric, results: Results) -> str:
    if metric.protocol == "size":
        return f"size v{results.size_version}"
    protocol = {"windows": results.protocol, "latency": results.latency, "lambada": results.lambada}.get(
        metric.protocol
    )
    name = f"{protocol.name} v{protocol.version}" if protocol else metric.protocol
    return f"{name}, {QUICK}" if results.quick else name


def guard_cell(value: object) -> object:
    """Return a cell that no spreadsheet takes for a formula, on one line; numbers stay as they are."""
    if not isinstance(value, str):
        return value
    text = printable(" ".join(value.splitlines()))
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def _without_infinity(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with strings for infinity and NaN, which JSON does not have, as in result files."""
    names = {math.inf: "Infinity", -math.inf: "-Infinity"}
    return {
        key: names.get(value, "NaN") if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


def _markdown(file: ResultFile) -> str:
    results = file.results
    lines = [f"### {escape_markdown(file.label)}", "", markdown_table(results, COLUMNS, gates=True), ""]
    latency, published = latency_line(results), describe_published(results)
    notes = [
        f"Source: {source_line(results)}",
        f"Reference: {reference_line(results)}",
        f"Drift: {text_line(results)}; intervals of 95 %",
        f"Bits a weight and disk: {size_line(results)}",
        *([f"Speed and memory: {latency}; medians, ranges {PERCENTILES}"] if latency else []),
        *([f"LAMBADA, {published}"] if published else []),
        f"Machine: {machine_line(results)}",
        *(f"{name}: {remark}" for name, remark in remarks(results)),
        *(describe_gate(gate).rstrip(".") for gate in results.gates if gate.outcome != "passed"),
    ]
    return "\n".join([*lines, *(f"- {escape_markdown(line)}." for line in notes), ""])


def markdown_table(results: Results, columns: Mapping[str, str], *, gates: bool = False) -> str:
    """Return a table of all rows in Markdown.

    Args:
        results: what was measured.
        columns: keys of the metrics, with their headings.
        gates: add a last column with the number of gates by outcome.
    """
    headings = [_heading(label, METRICS[key]) for key, label in columns.items()]
    table = [["", *headings], ["---", *["---:"] * len(headings)]]
    table += [[_row_name(row, results), *_row_cells(row, results, columns)] for row in results.rows]
    if gates:
        counts = ["gates", "---", *(_gates(row, results) for row in results.rows)]
        table = [[*cells, text] for cells, text in zip(table, counts, strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _heading(label: str, metric: Metric) -> str:
    arrow = {"lower": " ↓", "higher": " ↑", "": ""}[metric.better]
    return f"{label}{f', {metric.unit}' if metric.unit else ''}{arrow}"


def _row_name(row: Row, results: Results) -> str:
    name = f"{escape_markdown(row.name)}{' (not ours)' if row.foreign else ''}"
    return f"**{name}** (baseline)" if row.name == results.baseline else name


def _row_cells(row: Row, results: Results, columns: Iterable[str]) -> list[str]:
    cells = []
    for key in columns:
        metric = METRICS[key]
        text, interval = format_value(metric, row, metric.value_of(row, results))
        between = "" if interval.startswith("±") else " "
        cells.append(
            f"{text}{between}{interval if interval.startswith('±') or not interval else f'({interval})'}".strip()
        )
    return [escape_markdown(cell) for cell in cells]


def _gates(row: Row, results: Results) -> str:
    outcomes = [gate.outcome for gate in results.gates if gate.variant == row.name]
    return ", ".join(f"{outcomes.count(name)} {name}" for name in ("failed", "undecided", "passed") if name in outcomes)


def escape_markdown(text: str) -> str:
    """Return text escaped so that Markdown shows it as it is, in a table too."""
    plain = printable(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", plain)
