"""Drift over training: a plot for each panel, all of one metric on the same axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from pythia_quant.report.labels import (
    MOST_NAMES,
    Name,
    draw_legend,
    legend_height,
    name_ends,
    names_width,
    shorten_name,
)
from pythia_quant.report.style import new_figure, plot_settings, set_log_scale, set_margins, style_axes, tick_label
from pythia_quant.report.theme import Look
from pythia_quant.sweep.series import Curve, Panel, Point, uses_tokens

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 22, 10, 38
_HEIGHT, _RATE_HEIGHT = 3.5, 0.75
SPREAD = "another seed"
"""The name of the spread over seeds in a plot; no variant can be called so."""
_MOST_MARKED = 24
"""With more points than this, a line has no markers."""


@dataclass(frozen=True)
class Axis:
    """The horizontal axis, which all panels share.

    Attributes:
        tokens: whether it shows tokens, not steps.
        low: the smallest positive place.
        high: the largest.
        zero: where step 0 stands, left of a break; None if no curve has it.
    """

    tokens: bool
    low: float
    high: float
    zero: float | None

    def place(self, step: int, tokens: int | None) -> float:
        """Return where a step stands."""
        at = tokens if self.tokens else step
        return float(at) if at else self.zero or self.low


@dataclass(frozen=True)
class Scale:
    """The vertical axis, which all panels of a metric share: logarithmic, between ±`linear` linear if that is not 0."""

    low: float
    high: float
    linear: float


def shared_axis(found: Sequence[Panel]) -> Axis:
    """Return the horizontal axis of panels."""
    tokens = uses_tokens(found)
    places = {
        (point.tokens if tokens else point.step) or 0
        for panel in found
        for curve in panel.curves
        for point in curve.mean
    }
    low, high = min(places - {0}, default=1), max(places - {0}, default=1)
    room = max(1.0, math.log10(high / low))
    return Axis(tokens, low, high, low / 10 ** (0.1 * room) if 0 in places else None)


def shared_scale(found: Sequence[Panel]) -> Scale:
    """Return the vertical axis of panels: it is linear around 0 where a value is not positive."""
    values = [point.value for panel in found for curve in panel.curves for point in curve.mean]
    values += [point.value for panel in found for curve in panel.curves for run in curve.runs for point in run]
    # The interval of a spread of few seeds has ends far off: it is cut at the edges.
    spreads = [point.value.value for panel in found for point in panel.spread]
    if all(value.value > 0 for value in values):
        low = min([*spreads, *(value.value for value in values)])
        # An interval may reach zero: it is cut at the lower edge.
        ends = [value.low for value in values if value.low > low / 3]
        return Scale(min([low, *ends]) / 1.3, max([*spreads, *(value.high for value in values)]) * 1.3, 0.0)
    widths = [(value.high - value.low) / 2 for value in values if value.high > value.low]
    linear = 10.0 ** round(math.log10(median(widths))) if widths else 1.0
    low, high = min(value.low for value in values), max([*spreads, *(value.high for value in values)])
    return Scale(1.3 * min(low, -linear), 1.3 * max(high, linear), linear)


def draw_panel(panel: Panel, axis: Axis, scale: Scale, label: str, look: Look) -> Figure:
    """Draw the curves of a panel, and the learning rate in a thin plot below if it is known.

    Args:
        panel: the panel.
        axis: the horizontal axis.
        scale: the vertical axis.
        label: what the vertical axis shows.
        look: colours and styles of the variants by name.
    """
    names = [curve.variant for curve in panel.curves]
    with plot_settings():
        beside = len(names) <= MOST_NAMES
        below = 0 if beside else legend_height(len(names))
        figure = new_figure(look.theme, _HEIGHT + below / 72 + (_RATE_HEIGHT if panel.rates else 0))
        shown = [*names, SPREAD] if panel.spread else names
        right = _RIGHT + names_width(figure, shown) if beside else 14
        set_margins(figure, _LEFT, right, _BOTTOM + below, _TOP)
        if panel.rates:
            axes, rates = figure.subplots(2, 1, sharex=True, height_ratios=[_HEIGHT, _RATE_HEIGHT])
            _draw_rates(rates, panel, axis, look)
        else:
            axes = rates = figure.subplots()
        style_axes(axes, look.theme)
        for one in dict.fromkeys((axes, rates)):
            _set_places(one, axis, look)
        _set_scale(axes, scale, look)
        axes.set_ylabel(label)
        rates.set_xlabel("training tokens" if axis.tokens else "training step")
        if panel.rates:
            axes.tick_params(axis="x", labelbottom=False, length=0)
        _draw_spread(axes, panel, axis, scale, look)
        for curve in sorted(panel.curves, key=lambda curve: not curve.is_floor):
            _draw_curve(axes, curve, axis, scale, look)
        if beside:
            ends = [_name(curve, axis, scale, look) for curve in panel.curves]
            if panel.spread:
                last = panel.spread[-1]
                ends.append(Name(SPREAD, axis.place(last.step, last.tokens), last.value.value, look.theme.muted))
            name_ends(axes, ends, look.theme)
        else:
            draw_legend(figure, names, look)
        return figure


def _name(curve: Curve, axis: Axis, scale: Scale, look: Look) -> Name:
    last = curve.mean[-1]
    place, height = axis.place(last.step, last.tokens), max(last.value.value, scale.low)
    return Name(shorten_name(curve.variant), place, height, look.color(curve.variant), look.id_of(curve.variant))


def _draw_curve(axes: Axes, curve: Curve, axis: Axis, scale: Scale, look: Look) -> None:
    """Draw the mean with its band; step 0 stands alone, since no line crosses the break of the axis."""
    style, color, gid = look.styles[curve.variant], look.color(curve.variant), look.id_of(curve.variant)
    dashes = style.dashes or ((5, 2) if curve.is_floor else ())

    def across(points: Sequence[Point]) -> list[float]:
        return [axis.place(point.step, point.tokens) for point in points]

    def up(points: Sequence[Point], end: Callable[[Point], float]) -> list[float]:
        return [max(end(point), scale.low) for point in points]

    if len(curve.runs) > 1:
        for run in curve.runs:
            for part in _parts(run):
                axes.plot(
                    across(part), up(part, _middle), color=color, alpha=0.45, linewidth=0.7, gid=gid,
                    marker="." if len(part) == 1 else "", markersize=2.5,
                )  # fmt: skip
    for part in _parts(curve.mean):
        marked = len(curve.mean) <= _MOST_MARKED or len(part) == 1
        axes.plot(
            across(part), up(part, _middle), color=color, linewidth=1.6, gid=gid, zorder=3,
            linestyle=(0, dashes) if dashes else "-", marker=style.marker if marked else "", markersize=4.2,
            markeredgewidth=1, markerfacecolor=color if style.filled else look.theme.paper,
        )  # fmt: skip
        low, high = up(part, lambda point: point.value.low), up(part, lambda point: point.value.high)
        if len(part) == 1:
            axes.plot(across(part) * 2, [*low, *high], color=color, linewidth=1.2, gid=gid)
        else:
            axes.fill_between(across(part), low, high, color=color, alpha=0.16, linewidth=0, gid=gid)


def _draw_spread(axes: Axes, panel: Panel, axis: Axis, scale: Scale, look: Look) -> None:
    """Draw the spread over seeds with its interval; of negative drifts, too, if there are any."""
    color = look.theme.muted
    for part in _parts(panel.spread):
        across = [axis.place(point.step, point.tokens) for point in part]
        for sign in (1, -1) if scale.low < 0 else (1,):
            low, middle, high = (
                [sign * getattr(point.value, end) for point in part] for end in ("low", "value", "high")
            )
            axes.plot(across, middle, color=color, linewidth=1, linestyle=(0, (1.2, 1.6)), zorder=1)
            if len(part) == 1:
                axes.plot(
                    across * 2, [*low, *high], color=color, linewidth=7, alpha=0.2, solid_capstyle="butt", zorder=0
                )
                axes.plot(across, middle, color=color, marker="_", markersize=7, zorder=1)
            else:
                axes.fill_between(across, low, high, color=color, alpha=0.2, linewidth=0, zorder=0)
                for edge in (low, high):  # the band of a source in fp16 is as grey
                    axes.plot(across, edge, color=color, linewidth=0.6, linestyle=(0, (1.2, 1.6)), zorder=1)


def _middle(point: Point) -> float:
    return point.value.value


def _parts(points: Sequence[Point]) -> Iterable[Sequence[Point]]:
    """Return the points at step 0, and all others; without those that are empty."""
    return filter(None, ([point for point in points if not point.step], [point for point in points if point.step]))


def _draw_rates(axes: Axes, panel: Panel, axis: Axis, look: Look) -> None:
    style_axes(axes, look.theme)
    mark = "." if len(panel.rates) <= _MOST_MARKED else ""
    for part in filter(None, ([one for one in panel.rates if not one[0]], [one for one in panel.rates if one[0]])):
        across, up = [axis.place(step, tokens) for step, tokens, _ in part], [1e3 * rate for *_, rate in part]
        axes.plot(across, up, color=look.theme.muted, linewidth=1.2, marker=mark, markersize=3, clip_on=False)
    top = max(1e3 * rate for *_, rate in panel.rates)
    axes.set_ylim(0, 1.25 * top or 1)
    axes.yaxis.set_major_locator(FixedLocator([0, top]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.set_ylabel("rate, 10⁻³", fontsize=8.4)


def _set_places(axes: Axes, axis: Axis, look: Look) -> None:
    """Set the horizontal axis, with a break between step 0 and all others."""
    room = max(1.0, math.log10(axis.high / axis.low))
    left, right = (axis.zero or axis.low) / 10 ** (0.03 * room), axis.high * 10 ** (0.03 * room)
    axes.set(xscale="log", xlim=(left, right))
    places = _ticks(axis.low, axis.high)
    label = _count_label if axis.tokens else tick_label
    labels = {place: label(place) for place in places}
    if axis.zero is not None:
        # A tick on the first place would stand where the break is.
        labels = {axis.zero: "0"} | {place: text for place, text in labels.items() if place > axis.low * 10**0.02}
    axes.xaxis.set_major_locator(FixedLocator(list(labels)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: labels.get(place, "")))
    if axis.zero is None:
        return
    middle = math.sqrt(axis.zero * axis.low)
    edges = [middle / 10 ** (0.009 * room), middle * 10 ** (0.009 * room)]
    across = axes.get_xaxis_transform()
    axes.add_line(
        Line2D(edges, [0, 0], transform=across, color=look.theme.paper, linewidth=2.5, clip_on=False, zorder=4)
    )
    for edge in edges:
        axes.plot(
            [edge], [0], transform=across, marker=[(-0.5, -1), (0.5, 1)], markersize=8, clip_on=False, zorder=5,
            color=look.theme.muted, linestyle="",
        )  # fmt: skip


def _ticks(low: float, high: float) -> list[float]:
    """Return at most six round places from `low` to `high`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    places = [low]
    for factors in ((1,), (1, 3), (1, 2, 5)):
        places = [
            place for decade in decades for factor in factors if low <= (place := factor * 10.0**decade) <= high * 1.001
        ]
        if len(places) >= 3:
            break
    stride = math.ceil(len(places) / 6) or 1
    return places[::-1][::stride][::-1] or [low]


def _count_label(count: float) -> str:
    """Return a number of tokens in few characters."""
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{name}"
    return f"{count:.3g}"


def _set_scale(axes: Axes, scale: Scale, look: Look) -> None:
    if not scale.linear:
        set_log_scale(axes.yaxis, scale.low, scale.high)
        return
    axes.set_yscale("symlog", linthresh=scale.linear)
    axes.set_ylim(scale.low, scale.high)
    decades = [
        scale.linear * 10**power for power in range(8) if scale.linear * 10**power <= max(-scale.low, scale.high)
    ]
    places = [place for size in decades for place in (-size, size) if scale.low <= place <= scale.high]
    axes.yaxis.set_major_locator(FixedLocator([0, *places]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value).replace("-", "−")))
    axes.axhline(0, color=look.theme.muted, linewidth=0.9)
