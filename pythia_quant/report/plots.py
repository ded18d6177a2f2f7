"""Scatter plots of drift against size and decode time, with the Pareto front: the rows that no other beats in both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pythia_quant.bench.metrics import METRICS, Metric, Value, fp16_floor
from pythia_quant.core.text import printable
from pythia_quant.records.results import Results, Row
from pythia_quant.report.files import letter
from pythia_quant.report.labels import MOST_NAMES, Line, Name, draw_legend, legend_height, name_points, shorten_name
from pythia_quant.report.style import (
    WIDTH,
    new_figure,
    plot_settings,
    set_fixed_ticks,
    set_log_scale,
    set_margins,
    style_axes,
)
from pythia_quant.report.theme import LIGHT, Look, row_styles


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that no other point beats, by rising first value: lower is better in both.

    A point beats another if it is at most as large in both values and smaller in at least one. Equal points are all
    returned.
    """
    best = math.inf
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: points[index]):
        # In this order only an earlier point can beat a point, and a point equal to it is right before it.
        if points[index][1] < best or (front and points[index] == points[front[-1]]):
            best = points[index][1]
            front.append(index)
    return front


_LOWEST = 1e-3  # mnat: the lower limit of the axis where there is no fp16 floor

_SIZE_LABEL = "bits a weight, of the weight files over all parameters"


@dataclass(frozen=True)
class _Point:
    """The place of a row in a plot; `file` is the index of its result file, `cost` its value on the horizontal axis."""

    row: Row
    file: int
    cost: Value
    kl: Value


def drift_by_size(contents: Sequence[Results], look: Look) -> Figure | None:
    """Draw KL divergence as run against bits a weight, with each file's Pareto front; several files share one plot."""
    return _one_panel(contents, look, METRICS["bits_per_weight"], _SIZE_LABEL)


def drift_by_decode(contents: Sequence[Results], look: Look) -> Figure | None:
    """Draw KL divergence as run against decode time, with each result file's Pareto front."""
    return _one_panel(contents, look, METRICS["decode"], _decode_label(contents))


def plot_results(results: Results, path: Path) -> None:
    """Write both plots side by side, for one result file; the suffix of `path` selects the file format."""
    look = Look(LIGHT, row_styles([results]))
    with plot_settings():
        figure = new_figure(look.theme, 4.2, 2 * WIDTH)
        set_margins(figure, 48, 12, 40, 34)
        by_size, by_time = figure.subplots(1, 2, sharey=True)
        for axes, key, label in (
            (by_size, "bits_per_weight", _SIZE_LABEL), (by_time, "decode", _decode_label([results])),
        ):  # fmt: skip
            if _points([results], METRICS[key]):
                _draw_panel(axes, [results], look, METRICS[key], label)
        by_time.set_ylabel("")
        windows = f"{results.protocol.windows} windows of {results.protocol.context} tokens"
        bars = "bars: 95 % of the divergence, 10th to 90th percentile of the times"
        figure.text(
            0.5, 0.985, f"{printable(results.source.model)}: drift as run on {windows}; {bars}", ha="center", va="top",
            color=look.theme.ink, fontsize=10,
        )  # fmt: skip
        figure.savefig(path, dpi=144)


def _decode_label(contents: Sequence[Results]) -> str:
    contexts = {results.latency.context for results in contents if results.latency}
    after = f", after {contexts.pop()} tokens" if len(contexts) == 1 else ""
    return f"decode, ms a token{after}"


def _one_panel(contents: Sequence[Results], look: Look, metric: Metric, label: str) -> Figure | None:
    with plot_settings():
        names = list(dict.fromkeys(point.row.name for point in _points(contents, metric)))
        if not names:
            return None
        below = 0 if _names_beside_points(contents) else legend_height(len(names))
        figure = new_figure(look.theme, 3.9 + below / 72)
        set_margins(figure, 48, 12, 40 + below, 12)
        _draw_panel(figure.subplots(), contents, look, metric, label)
        if below:
            draw_legend(figure, names, look)
        return figure


def _names_beside_points(contents: Sequence[Results]) -> bool:
    """Say whether names stand beside the points, and not in a legend."""
    return len(contents) == 1 and len(contents[0].rows) <= MOST_NAMES


def _points(contents: Sequence[Results], metric: Metric) -> list[_Point]:
    return [
        _Point(row, index, cost, kl)
        for index, results in enumerate(contents)
        for row in results.rows
        if (kl := METRICS["kl"].value_of(row, results))
        and (cost := metric.value_of(row, results))
        and math.isfinite(kl.value)
    ]


def _draw_panel(axes: Axes, contents: Sequence[Results], look: Look, metric: Metric, label: str) -> None:
    """Draw the points, bars, floors and fronts."""
    points = _points(contents, metric)
    style_axes(axes, look.theme)
    bottom = _set_scales(axes, contents, points, wide=metric.key == "decode")
    axes.set_xlabel(label)
    axes.set_ylabel("KL divergence from fp32, mnat a token")
    lines: list[Line] = []
    for index in range(len(contents)):
        lines += _draw_front(axes, [point for point in points if point.file == index], bottom, look)
    if len(contents) == 1:
        lines += _draw_floor(axes, contents[0], look)
    names = []
    for point in points:
        lines += _draw_point(axes, point, bottom, look)
        below = point.kl.value < bottom
        if _names_beside_points(contents):
            name = f"{shorten_name(point.row.name)}{' ↓' * below}"
        # By size, the rows of all files that are below the axis share one place: their letters would cover each other.
        elif len(contents) > 1 and (not below or metric.key == "decode"):
            name = letter(point.file)
        else:
            continue
        place = point.cost.value, max(point.kl.value, bottom)
        names.append(Name(name, *place, look.color(point.row.name), look.id_of(point.row.name, point.file)))
    name_points(axes, names, lines)


def _set_scales(axes: Axes, contents: Sequence[Results], points: Sequence[_Point], wide: bool) -> float:
    """Set scales and limits; return the lower limit of the divergence, at which all smaller values are drawn."""
    floors = [kl.value for results in contents if fp16_floor(results) if (kl := _fp16_kl(results)) and kl.value > 0]
    # The drift of fp32 arithmetic is some six decades smaller than all others: it is drawn on the lower edge.
    divergences = [point.kl.value for point in points if point.kl.value >= _LOWEST]
    bottom = min(floors or divergences or [_LOWEST]) / 3
    set_log_scale(
        axes.yaxis, bottom, max(4 * bottom, *(point.kl.high for point in points), *(2 * kl for kl in divergences)) * 1.3
    )
    places = [place for point in points for place in point.cost]
    if wide and max(places) > 5 * min(places) > 0:
        set_log_scale(axes.xaxis, min(places) / 1.6, max(places) * 1.8)
    elif wide:
        axes.set_xlim(0, max(places) * 1.22)
    else:
        axes.set(xscale="log", xlim=(min(places) / 1.25, max(places) * 1.3))
        set_fixed_ticks(axes.xaxis, [2, 3, 4, 6, 8, 12, 16, 24, 32])
    return bottom


def _fp16_kl(results: Results) -> Value | None:
    return METRICS["kl"].value_of(results.row("torch-fp16"), results)


def _draw_floor(axes: Axes, results: Results, look: Look) -> list[Line]:
    """Draw the fp16 floor where there is one; return its line."""
    if not (fp16_floor(results) and (kl := _fp16_kl(results)) and kl.value > 0):
        return []
    axes.axhline(kl.value, color=look.theme.muted, linestyle=":", linewidth=1.1)
    # On the left: few rows with so little drift are there.
    axes.annotate(
        "fp16 floor", (0, kl.value), xycoords=("axes fraction", "data"), xytext=(4, 2), textcoords="offset points",
        va="bottom", fontsize=8, color=look.theme.muted, fontstyle="italic",
    )  # fmt: skip
    left, right = axes.get_xlim()
    return [(left, kl.value, right, kl.value)]


def _draw_front(axes: Axes, points: Sequence[_Point], bottom: float, look: Look) -> list[Line]:
    """Draw the Pareto front as stairs and return their lines: the front beats all rows right of and above it.

    There are no stairs if the front has fewer than two places, as of a file without speed.
    """
    best = _front(points)
    if len(best) < 2:
        return []
    corners = [(cost, max(kl, bottom)) for cost, kl in best]
    axes.step(*zip(*corners, strict=True), where="post", color=look.theme.muted, linewidth=1.2, zorder=1.5)
    return [
        line
        for (x, y), (to_x, to_y) in itertools.pairwise(corners)
        for line in ((x, y, to_x, y), (to_x, y, to_x, to_y))
    ]


def _front(points: Sequence[_Point]) -> list[tuple[float, float]]:
    """Return the places on the Pareto front, each once."""
    places = [(point.cost.value, point.kl.value) for point in points]
    return list(dict.fromkeys(places[index] for index in pareto_front(places)))


def draws_front(contents: Sequence[Results], key: str) -> bool:
    """Say whether the plot of drift against the metric called `key` has a Pareto front."""
    points = _points(contents, METRICS[key])
    return any(len(_front([point for point in points if point.file == index])) > 1 for index in range(len(contents)))


def _draw_point(axes: Axes, point: _Point, bottom: float, look: Look) -> list[Line]:
    """Draw a point with its intervals; return the lines of the intervals."""
    style, color = look.styles[point.row.name], look.color(point.row.name)
    row_id = look.id_of(point.row.name, point.file)
    (x, left, right), (y, low, high) = point.cost, point.kl
    bars: list[Line] = [(x, max(low, bottom), x, high)] if y >= bottom else []
    if right > left:
        bars.append((left, max(y, bottom), right, max(y, bottom)))
    for start_x, start_y, end_x, end_y in bars:
        axes.plot([start_x, end_x], [start_y, end_y], color=color, linewidth=1.3, solid_capstyle="butt", gid=row_id)
    axes.plot(
        x, max(y, bottom), style.marker, color=color, markersize=6.5, clip_on=False, zorder=3, markeredgewidth=1.4,
        markerfacecolor=color if style.filled else look.theme.paper, gid=row_id,
    )  # fmt: skip
    return bars
