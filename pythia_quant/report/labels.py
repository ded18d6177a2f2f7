"""Names in plots: each near its point, and none over another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from pythia_quant.core.text import printable
from pythia_quant.report.theme import Look, Theme

LONGEST_NAME = 24
"""Characters of a name in a plot."""
MOST_NAMES = 14
"""With more names than this, a plot has a legend below it."""
_SIZE = 8.8
_DISTANCES = (7, 12, 18, 26, 36, 48, 62)
_DIRECTIONS = tuple((math.cos(angle * math.pi / 8), math.sin(angle * math.pi / 8)) for angle in range(16))
_FAR = 14


@dataclass(frozen=True)
class Name:
    """A text that names the point at `x`, `y` of the data; `id` is that of the row in the SVG."""

    text: str
    x: float
    y: float
    color: str
    id: str | None = None


Line = tuple[float, float, float, float]
"""A horizontal or vertical line in the data: x and y of both ends."""


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: _Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0


def shorten_name(text: str) -> str:
    """Return a name of at most :data:`LONGEST_NAME` characters: a longer one loses its middle."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME // 2]}…{text[1 - LONGEST_NAME // 2 :]}"


def name_points(axes: Axes, names: Sequence[Name], lines: Sequence[Line] = ()) -> None:
    """Write each name beside its point, away from other names, other points and `lines`.

    A thin line joins a name that stands far from its point with the point. Limits and scales of the axes must be final.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)  # noqa: S101 - subfigures are not used here
    frame = _box(axes.get_window_extent())
    spots = [_display(axes, name.x, name.y) for name in names]
    obstacles = [_Box(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
    for x, y, to_x, to_y in lines:
        (left, bottom), (right, top) = (
            _display(axes, min(x, to_x), min(y, to_y)),
            _display(axes, max(x, to_x), max(y, to_y)),
        )
        obstacles.append(_Box(left - 1, bottom - 1, right + 1, top + 1))
    # Names in a crowd choose their place first: the others have room anyway.
    order = sorted(range(len(names)), key=lambda index: sum(math.dist(spots[index], spot) < 60 for spot in spots))
    for index in reversed(order):
        x, y = spots[index]
        width, height = names_width(figure, [names[index].text]), _SIZE * 1.15
        options = list(_candidates(x, y, width, height))
        best = min(options, key=lambda option: _cost(option, (x, y), obstacles, frame, spots))
        obstacles.append(best)
        _write(axes, names[index], (x, y), best)


def names_width(figure: Figure, texts: Iterable[str]) -> float:
    """Return the width of the widest name, shortened, in points."""
    widths = [0.0]
    for text in texts:
        probe = figure.text(0, 0, shorten_name(text), fontsize=_SIZE)
        widths.append(probe.get_window_extent().width)
        probe.remove()
    return max(widths)


def legend_height(count: int) -> float:
    """Return the height of a legend of `count` names below a plot, in points."""
    return 6 + 13.4 * math.ceil(count / 2)


def draw_legend(figure: Figure, names: Sequence[str], look: Look) -> None:
    """Draw the markers with their names, in two columns at the lower edge of the figure."""
    handles = [
        Line2D(
            [], [], linestyle="", marker=look.styles[name].marker, color=look.color(name), markersize=6,
            markerfacecolor=look.color(name) if look.styles[name].filled else look.theme.paper,
        )
        for name in names
    ]  # fmt: skip
    figure.legend(
        handles, [shorten_name(name) for name in names], loc="lower center", ncols=2, frameon=False, fontsize=_SIZE,
        labelcolor=look.theme.ink, borderaxespad=0.4, labelspacing=0.35, handletextpad=0.3, columnspacing=1.5,
    )  # fmt: skip


def name_ends(axes: Axes, names: Sequence[Name], theme: Theme) -> None:
    """Write each name right of the axes at the height of its point; close names are pushed apart."""
    frame = _box(axes.get_window_extent())
    ordered = sorted(names, key=lambda name: _display(axes, name.x, name.y)[1])
    targets = [_display(axes, name.x, name.y)[1] for name in ordered]
    heights = spread_out(targets, _SIZE * 1.25, frame.bottom, frame.top)
    for name, height in zip(ordered, heights, strict=True):
        axes.annotate(
            name.text, _display(axes, name.x, name.y), xytext=(frame.right + 14, height), xycoords="figure points",
            textcoords="figure points", va="center", fontsize=_SIZE, color=name.color, annotation_clip=False,
            gid=name.id, arrowprops={
                "arrowstyle": "-", "color": theme.muted, "lw": 0.5, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5),
            },
        )  # fmt: skip


def spread_out(targets: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places near the `targets`, both in rising order.

    The places are at least `gap` apart, or less where they would not fit, and lie from `low` to `high`.
    """
    if not targets:
        return []
    gap = min(gap, (high - low) / max(1, len(targets) - 1))
    places = list(targets)
    for _ in range(200):
        for index in range(len(places) - 1):
            shortage = gap - (places[index + 1] - places[index])
            if shortage > 0:
                places[index] -= shortage / 2
                places[index + 1] += shortage / 2
    # A last pass in each direction corrects gaps that are still too small, and places outside the limits.
    places[0] = max(places[0], low)
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + gap)
    places[-1] = min(places[-1], high)
    for index in reversed(range(len(places) - 1)):
        places[index] = min(places[index], places[index + 1] - gap)
    return places


def _display(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Return a place in the data as a place on the figure, in points."""
    right, up = axes.transData.transform((x, y))
    return float(right), float(up)


def _box(box: Bbox) -> _Box:
    return _Box(box.x0, box.y0, box.x1, box.y1)


def _candidates(x: float, y: float, width: float, height: float) -> list[_Box]:
    """Return boxes around a point, in 16 directions and several distances; their near edge or corner faces it."""
    boxes = []
    for distance, (right, up) in itertools.product(_DISTANCES, _DIRECTIONS):
        left = x + right * distance + (right - 1) / 2 * width
        bottom = y + up * distance + (up - 1) / 2 * height
        boxes.append(_Box(left, bottom, left + width, bottom + height))
    return boxes


def _cost(
    box: _Box, spot: tuple[float, float], obstacles: list[_Box], frame: _Box, spots: list[tuple[float, float]]
) -> float:
    """Return how bad a box is for the name of `spot`: it covers something, leaves the frame, or is near another."""
    outside = (box.right - box.left) * (box.top - box.bottom) - box.overlap(frame)
    covered = sum(box.overlap(other) for other in obstacles)
    nearer = sum(_distance(box, other) < _distance(box, spot) for other in spots)
    return 20 * covered + 20 * max(0.0, outside) + 25 * nearer + _distance(box, spot) + (0 if box.left > spot[0] else 1)


def _distance(box: _Box, spot: tuple[float, float]) -> float:
    return math.dist(spot, _nearest_point(box, spot))


def _nearest_point(box: _Box, spot: tuple[float, float]) -> tuple[float, float]:
    return min(max(spot[0], box.left), box.right), min(max(spot[1], box.bottom), box.top)


def _write(axes: Axes, name: Name, spot: tuple[float, float], box: _Box) -> None:
    axes.annotate(
        name.text, spot, xytext=(box.left, (box.bottom + box.top) / 2), xycoords="figure points",
        textcoords="figure points", va="center", fontsize=_SIZE, color=name.color, annotation_clip=False, gid=name.id,
    )  # fmt: skip
    if _distance(box, spot) > _FAR:
        axes.annotate(
            "", _nearest_point(box, spot), xytext=spot, xycoords="figure points", textcoords="figure points",
            arrowprops={"arrowstyle": "-", "color": name.color, "lw": 0.5, "shrinkA": 4, "shrinkB": 0},
        )  # fmt: skip
