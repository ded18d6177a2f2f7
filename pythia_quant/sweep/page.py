"""One HTML page about the tables of studies, with its plots as files, and what they show as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pythia_quant.bench.metrics import METRICS, Metric
from pythia_quant.core.errors import StudyError
from pythia_quant.core.files import recover, scratch_folder
from pythia_quant.core.text import printable
from pythia_quant.report.document import PAGE, check_replaceable, render_document
from pythia_quant.report.files import letter
from pythia_quant.report.inline import Mark, inline_svg
from pythia_quant.report.numbers import format_number
from pythia_quant.report.style import write_figure
from pythia_quant.report.tables import guard_cell
from pythia_quant.report.theme import LIGHT, Look, name_styles
from pythia_quant.sweep import conditions
from pythia_quant.sweep.answers import answers, axes_remarks, factor_text, how_to_read, scope
from pythia_quant.sweep.jobs import FLOOR
from pythia_quant.sweep.plots import SPREAD, draw_panel, shared_axis, shared_scale
from pythia_quant.sweep.series import Panel, Point, Table, changes, panels, value_of
from pythia_quant.sweep.views import LawView, SeedsView

MARKER = "pythia-quant sweep"
"""The generator that the page names: a page may replace a folder with such a page."""
CURVES = "curves.csv"
_PLOTTED = {
    "kl": "KL divergence of next-token predictions from the fp32 reference, in mnat (10⁻³ nat) a token.",
    "ppl_drift": "By how many percent the perplexity is above that of the fp32 reference.",
}
_TITLES = {"kl": "KL divergence", "ppl_drift": "Perplexity drift"}
_AXES = {"kl": "KL divergence from fp32, mnat a token", "ppl_drift": "perplexity drift from fp32, %"}
_LISTED = {"kl": "KL", "ppl_drift": "ppl drift", "top1": "top\u20111"}
"""The metrics in the table of all jobs, and their headings there."""


@dataclass(frozen=True)
class _Plot:
    title: str
    svg: Markup


@dataclass(frozen=True)
class _Drawing:
    """The plots of one metric, with one caption for all."""

    key: str
    title: str
    caption: str
    plots: Sequence[_Plot]


def write_page(
    tables: Sequence[Table], folder: Path, *, law: LawView | None = None, seeds: SeedsView | None = None
) -> list[Path]:
    """Write a page about tables, its plots as SVG and PNG, and ``curves.csv``; return their paths, the page's first.

    The folder appears when all files are written. It replaces an earlier page there, and nothing else. The same tables
    give the same bytes.

    Args:
        tables: tables with their labels, as :func:`pythia_quant.sweep.table.read_table` returns them.
        folder: the folder of the page.
        law: what the section about the law shows; without it, there is none.
        seeds: what the section about seeds shows; without it, there is none.

    Raises:
        StudyError: there is no table, or a table has no lines.
        BenchmarkError: `folder` holds something else than such a page.
        StorageError: `folder` cannot be written.
    """
    if not tables:
        raise StudyError("no table was given", hint="give a table.parquet that pythia-quant sweep wrote")
    for label, lines in tables:
        if not lines:
            raise StudyError("has no lines", where=label, hint="a study has a line for each job; run it again")
    recover(folder)
    check_replaceable(folder, MARKER)
    letters = [letter(index) for index in range(len(tables))] if len(tables) > 1 else [""]
    with scratch_folder(folder) as scratch:
        (scratch / "plots").mkdir()
        (scratch / CURVES).write_text(_curves_csv(tables, letters), encoding="utf-8", newline="")
        source = _render(tables, letters, scratch / "plots", law, seeds)
        (scratch / PAGE).write_text(source, encoding="utf-8", newline="\n")
        plots = sorted(path.name for path in (scratch / "plots").iterdir())
    return [folder / PAGE, folder / CURVES, *(folder / "plots" / name for name in plots)]


def _render(
    tables: Sequence[Table], letters: Sequence[str], folder: Path, law: LawView | None, seeds: SeedsView | None
) -> str:
    lines = [line for _, table in tables for line in table]
    styles = name_styles((line["variant"], line["variant"] != FLOOR) for line in lines)
    found = panels(tables, letters, "kl")
    drawn = panels(tables, letters, "ppl_drift")
    look = Look(LIGHT, styles)
    every = changes(found)
    return render_document(
        "pythia_quant.sweep", MARKER, tables=list(zip(letters, tables, strict=True)), styles=styles,
        scope=scope(tables), how_to_read=how_to_read([*found, *drawn]), answers=answers(every, law, seeds),
        changes=every, factor_text=factor_text,
        drawings=[_draw(one, key, look, folder) for key, one in (("kl", found), ("ppl_drift", drawn)) if one],
        warnings=conditions.warnings(tables, letters, [*found, *drawn]), law=law, seeds=seeds,
        jobs=list(_jobs(tables, letters)), job_count=len(lines),
        metrics=[(METRICS[key], label) for key, label in _LISTED.items()],
        variants=list(styles), sizes=list(dict.fromkeys(line["size"] for line in lines if line["size"])),
        statuses=list(dict.fromkeys(line["status"] for line in lines)),
        duplicates=conditions.duplicates(tables), missing=conditions.missing(tables),
        failures=conditions.failures(tables), unfinished=conditions.unfinished(tables),
        conditions=conditions.conditions(tables, letters), value=_value, key_of=lambda name: _key(styles, name),
        tool=next((line["tool"] for line in lines if line["tool"]), "pythia-quant"),
    )  # fmt: skip


def _key(styles: Mapping[str, Any], variant: str) -> str:
    """Return the key that everything of a variant has in common on the page; empty if it has no line."""
    return str(list(styles).index(variant)) if variant in styles else ""


def _draw(found: Sequence[Panel], key: str, look: Look, folder: Path) -> _Drawing:
    """Draw the panels of a metric, and write their files."""
    axis, scale = shared_axis(found), shared_scale(found)
    plots = []
    for index, panel in enumerate(found):
        words = "".join(sign if sign.isascii() and sign.isalnum() else " " for sign in panel.name).lower().split()
        name = "-".join([key.replace("_", "-"), str(index + 1), *words])[:80]
        svg = write_figure(draw_panel(panel, axis, scale, _AXES[key], look), folder, name)
        marks = {
            look.id_of(curve.variant): Mark(
                _key(look.styles, curve.variant), printable(_summary(curve.variant, panel, curve.mean, METRICS[key]))
            )
            for curve in panel.curves
        }
        title = f"{_TITLES[key]} of {panel.name} by training {'tokens' if axis.tokens else 'step'}"
        plots.append(_Plot(panel.name, inline_svg(svg, f"plot-{key}-{index}", printable(title), marks)))
    caption = _PLOTTED[key] + axes_remarks(tokens=axis.tokens, zero=axis.zero is not None, linear=scale.linear)
    return _Drawing(key, _TITLES[key], caption, plots)


def _summary(variant: str, panel: Panel, points: Sequence[Point], metric: Metric) -> str:
    """Return variant and panel, and the values at the first and the last step, one a line."""
    ends = points if len(points) == 1 else (points[0], points[-1])
    return "\n".join(
        [f"{variant}, {panel.name}", *(f"step {one.step:,}: {_value(metric.key, one, unit=True)}" for one in ends)]
    )


def _value(key: str, point: Point, *, unit: bool = False) -> str:
    """Return a point's value with its interval, and with its unit if that is wanted."""
    metric = METRICS[key]
    return "\u00a0".join(filter(None, (*format_number(metric, point.value), metric.unit if unit else "")))


def _jobs(tables: Sequence[Table], letters: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield what the table of all jobs shows of each line."""
    for sign, (_, lines) in zip(letters, tables, strict=True):
        for line in lines:
            values = [(METRICS[key], value_of(line, key)) for key in _LISTED]
            cells = [format_number(metric, value) if value else None for metric, value in values]
            repeats = line["duplicate_of"]
            yield {
                "letter": sign, "line": line, "cells": cells,
                "note": " ".join(filter(None, (line["problem"], repeats and f"same weights as {repeats}"))),
            }  # fmt: skip


def _curves_csv(tables: Sequence[Table], letters: Sequence[str]) -> str:
    """Return the points of all means in the plots, and those of the spread over seeds."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["metric", "unit", "plot", "variant", "step", "tokens", "value", "low", "high", "seeds"])
    for key in _PLOTTED:
        for panel in panels(tables, letters, key):
            for curve in panel.curves:
                for point in curve.mean:
                    writer.writerow(_cells(key, panel, curve.variant, point))
            for point in panel.spread:
                writer.writerow(_cells(key, panel, SPREAD, point))
    return stream.getvalue()


def _cells(key: str, panel: Panel, name: str, point: Point) -> list[Any]:
    cells = [key, METRICS[key].unit, panel.name, name, point.step, point.tokens, *point.value, point.seeds]
    return [guard_cell(cell) for cell in cells]
