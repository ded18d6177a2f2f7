"""One HTML page that shows result files. It loads nothing: it contains its styles, script and plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from pythia_quant.bench.gates import describe_gate
from pythia_quant.bench.metrics import METRICS, Metric, Value
from pythia_quant.core.text import printable
from pythia_quant.records.results import GateOutcome, Results, Row
from pythia_quant.report.document import render_document
from pythia_quant.report.facts import facts, latency_line, machine_line, remarks, source_line, text_line
from pythia_quant.report.files import ResultFile
from pythia_quant.report.gate_table import gate_table
from pythia_quant.report.headlines import headlines, rank_values
from pythia_quant.report.inline import Mark
from pythia_quant.report.numbers import format_value, missing_characters
from pythia_quant.report.theme import Style

MARKER = "pythia-quant report"
"""The generator that the page names: a report may replace a folder with such a page."""

COLUMNS = {
    "Drift as run": {"ppl_drift": "ppl drift", "kl": "KL", "kl_p99": "KL,\u00a0p99", "top1": "top\u20111"},
    "Quality": {"perplexity": "perplexity", "lambada_accuracy": "LAMBADA"},
    "Size": {"bits_per_weight": "a\u00a0weight", "disk": "disk"},
    "Speed and memory": {
        "prefill": "prefill", "decode": "decode", "speedup_baseline": "×\u00a0baseline", "memory": "peak memory",
    },
}  # fmt: skip
"""The columns of the table of all rows, and their headings there; columns without a value are left out."""

_PROTOCOLS = {"windows": "Drift and quality", "lambada": "LAMBADA", "size": "Size", "latency": "Speed and memory"}


@dataclass(frozen=True)
class DrawnPlot:
    """A plot with its title and caption, for the page; `first` plots stand above the table of all rows."""

    first: bool
    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Illustrations:
    """The plots of one result file, and the titles of missing plots with the reason."""

    drawn: Sequence[DrawnPlot]
    missing: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class _Cell:
    text: str
    interval: str
    tooltip: str
    value: str
    rank: int | None = None
    missing_characters: int = 0


@dataclass(frozen=True)
class _Line:
    """A row of the table of all rows."""

    file: ResultFile
    row: Row
    key: str
    cells: list[_Cell]
    gates: list[tuple[str, int]]
    remarked: bool
    disturbed: bool


def render_page(
    files: Sequence[ResultFile],
    styles: Mapping[str, Style],
    overview: Sequence[DrawnPlot],
    illustrations: Sequence[Illustrations],
) -> str:
    """Return the page; `illustrations` has one entry a file, `overview` the plots that show all files."""
    groups = _groups(files)
    return render_document(
        "pythia_quant.report", MARKER, files=files, styles=styles, groups=groups,
        metrics=[METRICS[key] for columns in groups.values() for key in columns], lines=_lines(files, groups, styles),
        any_gates=any(file.results.gates for file in files), gates_after=len(next(iter(groups.values()))),
        first_plots=overview or [plot for each in illustrations for plot in each.drawn if plot.first],
        illustrations=illustrations, headlines=headlines, gate_table=gate_table, row_key=row_key,
        describe_gate=describe_gate, facts=facts, remarks=remarks, source_line=source_line, text_line=text_line,
        latency_line=latency_line, machine_line=machine_line,
        details=_details, worst_first=_worst_first, sign={"lower": "↓", "higher": "↑", "": ""},
    )  # fmt: skip


def _groups(files: Sequence[ResultFile]) -> dict[str, dict[str, str]]:
    """Return :data:`COLUMNS` without the columns that have no value."""

    def has_value(key: str) -> bool:
        return any(METRICS[key].value_of(row, file.results) for file in files for row in file.results.rows)

    groups = {name: {key: label for key, label in group.items() if has_value(key)} for name, group in COLUMNS.items()}
    return {name: group for name, group in groups.items() if group}


def row_key(file: ResultFile, name: str, styles: Mapping[str, Style]) -> str:
    """Return the key that a row's line in the table and all that plots draw of it have in common."""
    return f"{file.letter}{list(styles).index(name)}"


def plot_marks(file: ResultFile, styles: Mapping[str, Style], ids: Callable[[str], str]) -> dict[str, Mark]:
    """Return the marks of a file's rows in a plot, by the ids that `ids` gives for their names."""
    return {
        ids(row.name): Mark(row_key(file, row.name, styles), printable(_summary(row, file.results)))
        for row in file.results.rows
    }


def _summary(row: Row, results: Results) -> str:
    """Return a row's name and its main numbers, one a line."""
    values = [
        (METRICS[key], METRICS[key].value_of(row, results)) for key in ("kl", "bits_per_weight", "disk", "decode")
    ]
    return "\n".join([row.name, *(_describe(metric, row, value) for metric, value in values if value)])


def _describe(metric: Metric, row: Row, value: Value | None) -> str:
    text, interval = format_value(metric, row, value)
    return f"{metric.label} " + " ".join(part for part in (text, interval, metric.unit) if part)


def _lines(
    files: Sequence[ResultFile], groups: Mapping[str, Mapping[str, str]], styles: Mapping[str, Style]
) -> list[_Line]:
    """Return the rows of all files; the numbers of a column are aligned over all files."""
    rows = [(file, row) for file in files for row in file.results.rows]
    columns = []
    for metric in (METRICS[key] for group in groups.values() for key in group):
        cells = [_cell(metric, row, file.results) for file, row in rows]
        counts = missing_characters([cell.text for cell in cells])
        ranks = rank_values(
            [metric.value_of(row, file.results) for file, row in rows], higher_is_better=metric.better == "higher"
        )
        columns.append(
            [
                replace(cell, rank=rank, missing_characters=count)
                for rank, count, cell in zip(ranks, counts, cells, strict=True)
            ]
        )
    return [
        _line(file, row, row_key(file, row.name, styles), [column[index] for column in columns])
        for index, (file, row) in enumerate(rows)
    ]


def _line(file: ResultFile, row: Row, key: str, cells: list[_Cell]) -> _Line:
    outcomes = [gate.outcome for gate in _worst_first(file.results) if gate.variant == row.name]
    return _Line(
        file, row, key, cells, [(name, outcomes.count(name)) for name in dict.fromkeys(outcomes)],
        remarked=any(name == row.name for name, _ in remarks(file.results)),
        disturbed=any(speed.disturbed for speed in row.speeds[:1]),
    )  # fmt: skip


def _worst_first(results: Results) -> list[GateOutcome]:
    return sorted(results.gates, key=lambda gate: ("failed", "undecided", "passed").index(gate.outcome))


def _cell(metric: Metric, row: Row, results: Results) -> _Cell:
    value = metric.value_of(row, results)
    text, interval = format_value(metric, row, value)
    tooltip = f"{row.name}\n{_describe(metric, row, value)}"
    if value is not None and value.low < value.high:
        tooltip += f"\n{value.value:.6g}, from {value.low:.6g} to {value.high:.6g}"
    return _Cell(text, interval, tooltip, "" if value is None or math.isnan(value.value) else repr(value.value))


def _details(results: Results) -> list[tuple[str, list[tuple[Metric, list[_Cell]]]]]:
    """Return every value of every row, by protocol, with the metrics that no row has."""
    return [
        (
            title,
            [
                (metric, [_cell(metric, row, results) for row in results.rows])
                for metric in METRICS.values()
                if metric.protocol == protocol
            ],
        )
        for protocol, title in _PROTOCOLS.items()
    ]
