"""One HTML page that shows result files and loads nothing: styles, script and plots are in it."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files as package_files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pythia_quant.bench.gates import describe
from pythia_quant.bench.metrics import METRICS, Metric
from pythia_quant.core.text import printable
from pythia_quant.records.results import GateOutcome, Results, Row
from pythia_quant.report.facts import facts, latency_line, machine_line, remarks, source_line, text_line
from pythia_quant.report.files import ResultFile
from pythia_quant.report.numbers import lacking, shown
from pythia_quant.report.style import DARK, LIGHT, MARKERS, Style, Theme, slots

MARKER = "pythia-quant report"
"""What the page names as its generator: a folder with such a page is ours to replace."""

COLUMNS = {
    "Drift as run": {"ppl_drift": "ppl drift", "kl": "KL", "kl_p99": "KL, p99", "top1": "top-1"},
    "Quality": {"perplexity": "perplexity", "lambada_accuracy": "LAMBADA"},
    "Size": {"bits_per_weight": "a weight", "disk": "disk"},
    "Speed and memory": {
        "prefill": "prefill", "decode": "decode", "speedup_baseline": "× baseline", "memory": "peak memory",
    },
}  # fmt: skip
"""The columns of the table of all rows, and what they are called there; those that no file has are left out."""

_PROTOCOLS = {"windows": "Drift and quality", "lambada": "LAMBADA", "size": "Size", "latency": "Speed and memory"}


@dataclass(frozen=True)
class DrawnPlot:
    """A plot as the page shows it."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Illustrations:
    """The plots of one result file, and for those that are missing title and reason."""

    drawn: Sequence[DrawnPlot]
    missing: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class _Cell:
    text: str
    interval: str
    sort: str
    lacking: int = 0


@dataclass(frozen=True)
class _Line:
    """A row of the table of all rows."""

    file: ResultFile
    row: Row
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
    """Return the page; `illustrations` are of each file in turn, `overview` of all together."""
    environment = Environment(
        loader=PackageLoader("pythia_quant.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    )  # fmt: skip
    css, script = _palette() + _packaged("page.css"), _packaged("page.js")
    groups = _groups(files)
    return environment.get_template("page.html.jinja").render(
        marker=MARKER, css=Markup(css), script=Markup(script),  # noqa: S704 - both are ours
        css_hash=_hash(css), script_hash=_hash(script), files=files, styles=styles, markers=MARKERS, groups=groups,
        metrics=[METRICS[key] for columns in groups.values() for key in columns], lines=_lines(files, groups),
        any_gates=any(file.results.gates for file in files), gates_after=len(next(iter(groups.values()))),
        overview=overview, illustrations=illustrations, describe=describe, facts=facts, remarks=remarks,
        source_line=source_line, text_line=text_line, latency_line=latency_line, machine_line=machine_line,
        details=_details, worst_first=_worst_first, sign={"lower": "↓", "higher": "↑", "": ""},
        icon={"passed": "✓", "failed": "✗", "undecided": "?"},
    )  # fmt: skip


def _palette() -> str:
    """Return the colours of both themes as variables."""

    def variables(theme: Theme) -> str:
        named = slots(theme) | {"paper": theme.paper, "ink": theme.ink, "muted": theme.muted, "grid": theme.grid}
        return "".join(f"--{name}:{color};" for name, color in named.items())

    dark = f"@media (prefers-color-scheme: dark){{:root{{{variables(DARK)}}}}}"
    return f":root{{{variables(LIGHT)}}}\n{dark}\n"


def _packaged(name: str) -> str:
    return (package_files("pythia_quant.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return a source as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _groups(files: Sequence[ResultFile]) -> dict[str, dict[str, str]]:
    def known(key: str) -> bool:
        return any(METRICS[key].of(row, file.results) for file in files for row in file.results.rows)

    kept = {name: {key: label for key, label in group.items() if known(key)} for name, group in COLUMNS.items()}
    return {name: group for name, group in kept.items() if group}


def _lines(files: Sequence[ResultFile], groups: Mapping[str, Mapping[str, str]]) -> list[_Line]:
    """Return all rows; numbers of a column are aligned over all files."""
    rows = [(file, row) for file in files for row in file.results.rows]
    columns = []
    for metric in (METRICS[key] for group in groups.values() for key in group):
        cells = [_cell(metric, row, file.results) for file, row in rows]
        short = lacking([cell.text for cell in cells])
        columns.append([replace(cell, lacking=count) for count, cell in zip(short, cells, strict=True)])
    return [_line(file, row, [column[index] for column in columns]) for index, (file, row) in enumerate(rows)]


def _line(file: ResultFile, row: Row, cells: list[_Cell]) -> _Line:
    outcomes = [gate.outcome for gate in _worst_first(file.results) if gate.variant == row.name]
    return _Line(
        file, row, cells, [(name, outcomes.count(name)) for name in dict.fromkeys(outcomes)],
        remarked=any(name == row.name for name, _ in remarks(file.results)),
        disturbed=any(speed.disturbed for speed in row.speeds[:1]),
    )  # fmt: skip


def _worst_first(results: Results) -> list[GateOutcome]:
    return sorted(results.gates, key=lambda gate: ("failed", "undecided", "passed").index(gate.outcome))


def _cell(metric: Metric, row: Row, results: Results) -> _Cell:
    value = metric.of(row, results)
    text, interval = shown(metric, row, value)
    known = value is not None and not math.isnan(value.value)
    return _Cell(text, interval, repr(value.value) if value is not None and known else "")


def _details(results: Results) -> list[tuple[str, list[tuple[Metric, list[_Cell]]]]]:
    """Return every value of every row, by protocol; a metric that no row has is there, too."""
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
