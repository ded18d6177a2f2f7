"""Plots of what a mean hides: speed by context and threads, error by layer, divergence by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pythia_quant.bench.statistics import spread
from pythia_quant.records.results import Results, Row
from pythia_quant.report.labels import (
    MOST_NAMES,
    Name,
    draw_legend,
    legend_height,
    name_ends,
    names_width,
    shorten_name,
)
from pythia_quant.report.style import new_figure, plot_settings, set_fixed_ticks, set_log_scale, set_margins, style_axes
from pythia_quant.report.theme import Look

_Curve = list[tuple[float, tuple[float, float, float]]]
"""For each place on the horizontal axis: the 10th percentile, the median and the 90th percentile."""


def decode_by_context(results: Results, look: Look) -> Figure | None:
    """Draw the decode time of a token, ms, against the number of tokens before it."""
    contexts = sorted(results.latency.contexts) if results.latency else []

    def curve(row: Row) -> _Curve:
        samples = [(context, row.speeds[0].decode_seconds(context)) for context in contexts] if row.speeds else []
        return [(context, spread([1e3 * second for second in seconds])) for context, seconds in samples if seconds]

    return _curves(results, look, curve, "tokens already there", "decode, ms a token")


def prefill_by_prompt(results: Results, look: Look) -> Figure | None:
    """Draw the rate of prefill, tokens a second, against the length of the prompt."""
    prompts = sorted(results.latency.prompts) if results.latency else []

    def curve(row: Row) -> _Curve:
        samples = [(prompt, row.speeds[0].prefill_seconds(prompt)) for prompt in prompts] if row.speeds else []
        return [(prompt, spread([prompt / second for second in seconds])) for prompt, seconds in samples if seconds]

    return _curves(results, look, curve, "tokens of the prompt", "prefill, tokens a second")


def decode_by_threads(results: Results, look: Look) -> Figure | None:
    """Draw the decode time of a token, ms, after the protocol's main context length, against the number of threads."""
    context = results.latency.context if results.latency else 0

    def curve(row: Row) -> _Curve:
        speeds = [speed for speed in row.speeds if speed.device == row.speeds[0].device]
        samples = sorted((speed.threads, speed.decode_seconds(context)) for speed in speeds)
        return [(threads, spread([1e3 * second for second in seconds])) for threads, seconds in samples if seconds]

    return _curves(results, look, curve, "threads", f"decode, ms a token, after {context} tokens")


def layer_errors(results: Results, look: Look) -> Figure | None:
    """Draw two panels: the error of each layer alone, and the error after it, of all layers so far."""
    rows = [row for row in results.rows if row.layers]
    if not rows:
        return None
    with plot_settings():
        figure = _figure_with_names(5.2, 22, [row.name for row in rows], look)
        panels = figure.subplots(2, 1, sharex=True)
        for axes, which, title in zip(panels, ("alone", "after"), ("the layer alone", "after the layer"), strict=True):
            style_axes(axes, look.theme)
            curves = {row.name: [100 * getattr(layer, which) for layer in row.layers] for row in rows}
            positive = [error for curve in curves.values() for error in curve if 0 < error < math.inf]
            set_log_scale(axes.yaxis, min(positive, default=0.1) / 1.3, max(positive, default=1) * 1.3)
            axes.set_xlim(0.5, max(len(row.layers) for row in rows) + 0.5)
            for name, errors in curves.items():
                _draw_line(axes, list(range(1, len(errors) + 1)), errors, name, look)
            axes.set_ylabel("relative error, %")
            axes.set_title(title, loc="left", fontsize=9, color=look.theme.ink)
            _name_lines(axes, [Name(name, len(errors), errors[-1], "") for name, errors in curves.items()], look)
        panels[1].set_xlabel("layer")
        panels[1].xaxis.get_major_locator().set_params(integer=True)
        return figure


def kl_histograms(results: Results, look: Look) -> Figure | None:
    """Draw the distribution of the divergence over a row's tokens, for each row.

    A short line marks the median, a dot the 99th percentile.
    """
    rows = [row for row in results.rows if row.as_run and sum(row.as_run.kl_histogram)]
    if not rows:
        return None
    shares = {row.name: _shares(row) for row in rows}
    # The first bin holds everything below the histogram's range: the common scale is that of the other bins.
    tallest = max((max(share[1:]) for share in shares.values()), default=0) or 1
    filled = [index for share in shares.values() for index, part in enumerate(share) if part]
    with plot_settings():
        figure = new_figure(look.theme, 1.0 + 0.42 * len(rows))
        set_margins(figure, 16 + names_width(figure, (row.name for row in rows)), 14, 40, 14)
        axes = figure.subplots()
        style_axes(axes, look.theme)
        set_log_scale(axes.xaxis, _edge(min(filled)), _edge(max(filled) + 1))
        for place, row in enumerate(reversed(rows)):
            _ridge(axes, place, row, [min(1.0, part / tallest) for part in shares[row.name]], look)
        axes.set_ylim(-0.15, len(rows) + 0.25)
        axes.set_yticks(range(len(rows)), [shorten_name(row.name) for row in reversed(rows)])
        for tick, row in zip(axes.get_yticklabels(), reversed(rows), strict=True):
            tick.set(color=look.color(row.name), va="bottom", gid=look.id_of(row.name))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("a token's KL divergence from fp32, mnat")
        return figure


def _ridge(axes: Axes, place: int, row: Row, heights: list[float], look: Look) -> None:
    color, row_id = look.color(row.name), look.id_of(row.name)
    edges = [_edge(index) for index in range(len(heights) + 1)]
    filled = [index for index, height in enumerate(heights) if height]
    outline = [place + 1.05 * height for height in heights][filled[0] : filled[-1] + 1]
    edges = edges[filled[0] : filled[-1] + 2]
    axes.stairs(outline, edges, baseline=place, fill=True, color=color, alpha=0.2, linewidth=0, gid=row_id)
    axes.stairs(outline, edges, baseline=place, color=color, linewidth=1.1, gid=row_id)
    assert row.as_run is not None  # noqa: S101 - it has a histogram
    for quantile in row.as_run.kl_quantiles:
        across = 1e3 * quantile.value
        if quantile.share == 0.5:
            axes.plot([across] * 2, [place, place + 0.45], color=color, linewidth=2, zorder=3, gid=row_id)
        elif quantile.share == 0.99:
            axes.plot(across, place + 0.1, ".", color=color, markersize=6, zorder=3, gid=row_id)


def _shares(row: Row) -> list[float]:
    counts = row.as_run.kl_histogram if row.as_run else []
    return [count / sum(counts) for count in counts]


def _edge(index: int) -> float:
    """Return the lower edge of bin `index` of a histogram, mnat."""
    return float(10 ** (index / 10 - 12 + 3))


def _curves(results: Results, look: Look, curve: Callable[[Row], _Curve], x_label: str, y_label: str) -> Figure | None:
    """Draw a line with its band for each row; return None where the rows have fewer than two places in all."""
    curves = {row.name: points for row in results.rows if (points := curve(row))}
    places = sorted({place for points in curves.values() for place, _ in points})
    if len(places) < 2:
        return None
    with plot_settings():
        figure = _figure_with_names(3.7, 12, list(curves), look)
        axes = figure.subplots()
        style_axes(axes, look.theme)
        axes.set(xscale="log", xlim=(places[0] / 1.1, places[-1] * 1.1), xlabel=x_label, ylabel=y_label)
        set_fixed_ticks(axes.xaxis, _readable_ticks(places))
        _set_y_scale(axes, [value for points in curves.values() for _, values in points for value in values])
        for name, points in curves.items():
            where = [place for place, _ in points]
            _draw_line(axes, where, [values[1] for _, values in points], name, look)
            low, high = [values[0] for _, values in points], [values[2] for _, values in points]
            axes.fill_between(where, low, high, color=look.color(name), alpha=0.16, linewidth=0, gid=look.id_of(name))
        _name_lines(axes, [Name(name, points[-1][0], points[-1][1][1], "") for name, points in curves.items()], look)
        return figure


def _figure_with_names(height: float, top: float, names: Sequence[str], look: Look) -> Figure:
    """Return a figure with room for names on the right, or with a legend below when they are many."""
    if len(names) <= MOST_NAMES:
        figure = new_figure(look.theme, height)
        set_margins(figure, 48, 22 + names_width(figure, names), 40, top)
        return figure
    below = legend_height(len(names))
    figure = new_figure(look.theme, height + below / 72)
    set_margins(figure, 48, 14, 40 + below, top)
    draw_legend(figure, names, look)
    return figure


def _readable_ticks(places: Sequence[float]) -> list[float]:
    """Return the places without those that are closer to the next one than a label is wide."""
    ticks: list[float] = []
    for place in reversed(places):
        if not ticks or math.log(ticks[-1] / place) > 0.14 * math.log(places[-1] / places[0]):
            ticks.append(place)
    return ticks[::-1]


def _set_y_scale(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    if high > 5 * low > 0:
        set_log_scale(axes.yaxis, low / 1.25, high * 1.25)
    else:
        axes.set_ylim(0, high * 1.1)


def _draw_line(axes: Axes, x_values: Sequence[float], y_values: Sequence[float], name: str, look: Look) -> None:
    style, color = look.styles[name], look.color(name)
    axes.plot(
        x_values, y_values, color=color, linewidth=1.5, marker=style.marker,
        markersize=4.5 if len(x_values) < 13 else 3.2,
        markeredgewidth=1, markerfacecolor=color if style.filled else look.theme.paper,
        linestyle=(0, style.dashes) if style.dashes else "-", gid=look.id_of(name),
    )  # fmt: skip


def _name_lines(axes: Axes, names: Sequence[Name], look: Look) -> None:
    labels = [
        Name(shorten_name(name.text), name.x, name.y, look.color(name.text), look.id_of(name.text))
        for name in names
        if name.y > 0 and math.isfinite(name.y)
    ]
    if len(names) <= MOST_NAMES:
        name_ends(axes, labels, look.theme)
