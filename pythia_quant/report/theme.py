"""Colours, markers and dashes: a row has the same ones in every plot and table of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pythia_quant.records.results import Results


@dataclass(frozen=True)
class Theme:
    """Colours of one page background.

    `colors` are for quantized rows: people with any of the common colour deficiencies can distinguish them. `neutrals`
    are for unquantized rows. In both themes a colour has the same hue, and contrast enough with `paper` for text (4.5).
    """

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    colors: tuple[str, ...]
    neutrals: tuple[str, ...]


LIGHT = Theme(
    "light", paper="#ffffff", ink="#1b2430", muted="#5c6775", grid="#e3e7ec",
    colors=("#212ba9", "#612f05", "#15664a", "#d80680", "#027b9f", "#757708", "#7f42d3", "#602561"),
    neutrals=("#1b2430", "#6b7685"),
)  # fmt: skip

DARK = Theme(
    "dark", paper="#171b21", ink="#e8ebef", muted="#9aa5b3", grid="#2c333d",
    colors=("#5b7afc", "#f1914c", "#5ae0ac", "#ce5f8f", "#0096c2", "#e6ec6f", "#bda7ef", "#fecafd"),
    neutrals=("#e8ebef", "#94a0ae"),
)  # fmt: skip


MARKERS = {
    "o": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "s": "M-4.5-4.5h9v9h-9z",
    "^": "M0-5.5L5.5 4.5h-11z",
    "D": "M0-6L6 0 0 6-6 0z",
    "v": "M0 5.5L5.5-4.5h-11z",
    "P": "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "X": "M-5.6-2.8L-2.8-5.6 0-2.8 2.8-5.6 5.6-2.8 2.8 0 5.6 2.8 2.8 5.6 0 2.8-2.8 5.6-5.6 2.8-2.8 0z",
    "p": "M0-5.8L5.5-1.8 3.4 4.7h-6.8L-5.5-1.8z",
}
"""Matplotlib's markers, each with the SVG path of the same shape around the origin, for a page."""

_DASHES: tuple[tuple[float, ...], ...] = ((5, 2), (1.2, 1.6), (6, 2, 1.2, 2), (9, 3))


@dataclass(frozen=True)
class Style:
    """How a row is drawn: `slot` names its colour; the marker of an unquantized row is not filled."""

    slot: str
    marker: str
    filled: bool
    dashes: tuple[float, ...]


@dataclass(frozen=True)
class Look:
    """A theme, and the styles of all rows by name."""

    theme: Theme
    styles: dict[str, Style]

    def color(self, name: str) -> str:
        """Return the colour of the row called `name`."""
        return slots(self.theme)[self.styles[name].slot]

    def id_of(self, name: str, file: int = 0) -> str:
        """Return the id of what a figure draws of the row called `name` in the result file with this index."""
        return row_id(file, list(self.styles).index(name))


def row_id(file: int, place: int) -> str:
    """Return the id of a row by the index of its result file in a figure and its place among the styles of a report."""
    return f"row-{file}-{place}"


def slots(theme: Theme) -> dict[str, str]:
    """Return every colour that a row can have, by the name of its slot."""
    named = {f"q{index}": color for index, color in enumerate(theme.colors)}
    return named | {f"n{index}": color for index, color in enumerate(theme.neutrals)}


def all_colors(theme: Theme) -> list[str]:
    """Return every colour of a theme, in the same order for each."""
    return [*slots(theme).values(), theme.paper, theme.ink, theme.muted, theme.grid]


def row_styles(contents: Sequence[Results]) -> dict[str, Style]:
    """Return a style for each row name of a report, in the order of their first appearance."""
    return name_styles((row.name, row.quantized) for results in contents for row in results.rows)


def name_styles(names: Iterable[tuple[str, bool]]) -> dict[str, Style]:
    """Return a style for each name, in the order of their first appearance, by whether its row is quantized."""
    styles: dict[str, Style] = {}
    shapes, quantized, unquantized = list(MARKERS), 0, 0
    for name, is_quantized in names:
        if name in styles:
            continue
        if is_quantized:
            # The ninth row has the colour of the first, with another marker.
            turn, slot = divmod(quantized, len(LIGHT.colors))
            shape = shapes[(slot + turn) % len(shapes)]
            styles[name] = Style(
                f"q{slot}", shape, filled=True, dashes=_DASHES[(turn - 1) % len(_DASHES)] if turn else ()
            )
            quantized += 1
        else:
            slot = unquantized % len(LIGHT.neutrals)
            shape = shapes[unquantized % len(shapes)]
            styles[name] = Style(f"n{slot}", shape, filled=False, dashes=_DASHES[unquantized % len(_DASHES)])
            unquantized += 1
    return styles
