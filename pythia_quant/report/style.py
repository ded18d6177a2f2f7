"""How plots are drawn with matplotlib: figures, axes, ticks, margins, and files of them."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from pythia_quant.report.theme import DARK, LIGHT, Theme, all_colors

WIDTH = 4.6
"""Width of a plot, inches: its text is legible on a phone, and two plots fit side by side on a desktop screen."""

_SETTINGS = {
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",  # text stays text: small files, and the reader's own font
    "svg.hashsalt": "pythia-quant",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
}

_WEB_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans'"

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@contextmanager
def plot_settings() -> Iterator[None]:
    """Draw and save with our matplotlib settings, whatever the user's own are."""
    with context(["default", _SETTINGS]), warnings.catch_warnings():
        # A glyph missing here may be in the fonts of an SVG's reader; a PNG shows a box in its place.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        yield


def new_figure(theme: Theme, height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure, sizes in inches; at 72 dots an inch, a pixel of its layout is a point."""
    figure = Figure(figsize=(width, height), dpi=72, facecolor=theme.paper)
    FigureCanvasAgg(figure)  # this canvas measures the width of texts
    return figure


def style_axes(axes: Axes, theme: Theme) -> None:
    """Give axes the theme's colours, and hide their upper and right edges."""
    axes.set_facecolor(theme.paper)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.muted)
    axes.tick_params(which="both", color=theme.muted, labelcolor=theme.muted, labelsize=8.8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=theme.ink, fontsize=9.2)
    axes.grid(visible=True, which="major", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)


def set_margins(figure: Figure, left: float, right: float, bottom: float, top: float) -> None:
    """Set the margins of a figure, in points."""
    width, height = figure.get_size_inches() * 72
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, hspace=0.12)


def set_log_scale(axis: Axis, low: float, high: float) -> None:
    """Make an axis logarithmic from `low` to `high`; short tick labels are plain numbers, not powers."""
    axes = axis.axes
    name: Literal["x", "y"] = "x" if axis is axes.xaxis else "y"
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    decades = math.log10(high / low)
    steps = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.8 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=steps, numticks=9))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))


def set_fixed_ticks(axis: Axis, places: list[float]) -> None:
    """Put ticks at `places` only."""
    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))


def tick_label(value: float) -> str:
    """Return the label of a tick at `value`."""
    if value == 0 or 9e-4 <= abs(value) < 1e6:
        return f"{value:,.10g}"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    factor = f"{value / 10**exponent:.3g}"
    power = f"10{str(exponent).translate(_SUPERSCRIPTS)}"
    return power if factor == "1" else f"{factor}·{power}"


def render_figure(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    """Return the content of a figure's file; the same figure gives the same bytes."""
    stream = BytesIO()
    with plot_settings():
        if kind == "png":
            figure.savefig(stream, format="png", dpi=200, metadata={"Software": None})
            return stream.getvalue()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=no_metadata)
    return stream.getvalue().replace(b"'DejaVu Sans'", _WEB_FONTS.encode())


def write_figure(figure: Figure, folder: Path, name: str) -> bytes:
    """Write a figure of the light theme to a folder, as SVG of both themes and as PNG; return the light SVG.

    In the files, ids are unique; in what is returned, all elements of a row have the same.
    """
    svg = render_figure(figure, "svg")
    alone = number_ids(svg)
    (folder / f"{name}.svg").write_bytes(alone)
    (folder / f"{name}.png").write_bytes(render_figure(figure, "png"))
    (folder / f"{name}-dark.svg").write_bytes(recolor_svg(alone, DARK))
    return svg


def number_ids(svg: bytes) -> bytes:
    """Return an SVG whose ids are unique: all elements of a row but the first have a number after the id they share."""
    seen: Counter[str] = Counter()

    def number(match: re.Match[str]) -> str:
        seen[match[1]] += 1
        return match[0] if seen[match[1]] == 1 else f' id="{match[1]}-{seen[match[1]]}"'

    return re.sub(r' id="(row-\d+-\d+)"', number, svg.decode()).encode()


def recolor_svg(svg: bytes, theme: Theme) -> bytes:
    """Return an SVG with the colours of `theme` in place of those of the light theme, in which it was drawn."""
    colors = dict(zip(all_colors(LIGHT), all_colors(theme), strict=True))

    def recolor(style: re.Match[str]) -> str:
        return re.sub("#[0-9a-f]{6}", lambda color: colors.get(color[0], color[0]), style[0])

    return re.sub('style="[^"]*"', recolor, svg.decode()).encode()
