"""The columns of the table on a terminal: which there are, what their cells say, and how they fit in a width."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pythia_quant.bench.metrics import METRICS
from pythia_quant.core.errors import ArgumentError, nearest
from pythia_quant.records.results import Results, Row
from pythia_quant.report.facts import QUICK
from pythia_quant.report.numbers import FormattedValue, format_plus_minus

GATES = "gates"
"""The key of the column that has no metric: how the gates of a row came out."""
QUALITY = ("ppl_drift", "ppl_drift_weights", "kl", "top1", "bits_per_weight", "disk")
SPEED = ("prefill", "decode", "speedup_baseline", "memory")
DEFAULT = (*QUALITY, *SPEED, GATES)
"""The columns that a table has unless others are asked for."""

TWO_BLOCKS_BELOW, ALL_INTERVALS_FROM = 100, 140
"""Widths, in columns of the terminal."""
_ALWAYS = ("ppl_drift", "speedup_baseline")
"""The values of one wide block that mean nothing without their intervals."""
_FIRST = (*_ALWAYS, "kl", "top1", "decode", "prefill", "ppl_drift_weights")
"""The order in which intervals are given the room there is."""
_NAMES = 17
"""The characters of a row's name that are never folded, as long as our recipes' longest name."""

_HEADINGS = {
    "ppl_drift": "ppl drift\nas run, %", "ppl_drift_weights": "weights\nonly, %", "kl": "KL\nmnat", "top1": "top-1\n%",
    "bits_per_weight": "bits/\nweight", "disk": "disk\nMB", "prefill": "prefill\ntok/s", "decode": "decode\nms/tok",
    "memory": "peak\nMB", GATES: "\ngates",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: the metric's, or :data:`GATES`.
        heading: its lines.
        cells: for each row, the value and its interval.
    """

    key: str
    heading: list[str]
    cells: list[FormattedValue]

    def width(self, *, interval: bool) -> int:
        """Return the characters that the column takes, with or without intervals."""
        head = max(map(len, self.heading))
        return max(head, self.value_width + (self.interval_width if interval else 0))

    @property
    def value_width(self) -> int:
        """The characters of the longest value."""
        return max((len(cell.text) for cell in self.cells), default=0)

    @property
    def interval_width(self) -> int:
        """The characters of the longest interval."""
        return max((len(cell.interval) for cell in self.cells), default=0)


@dataclass(frozen=True)
class Block:
    """Columns that stand side by side, after the names of the rows.

    Attributes:
        title: the heading of the names; empty if there is one block only.
        columns: from left to right.
        intervals: the keys of the columns that show intervals.
        gap: the blanks after a column.
    """

    title: str
    columns: list[Column]
    intervals: frozenset[str]
    gap: int


def parse_columns(text: str) -> list[str]:
    """Return the keys of columns from a list with commas.

    Raises:
        ArgumentError: a key is unknown, or there is none.
    """
    keys = [part.strip() for part in text.split(",") if part.strip()]
    if not keys:
        raise ArgumentError("names no column", where="--columns", hint=f"choose from: {', '.join((*METRICS, GATES))}")
    for key in keys:
        if key != GATES:
            check_metric(key, "--columns")
    return list(dict.fromkeys(keys))


def check_metric(key: str, option: str) -> None:
    """Refuse a name that is none of a metric.

    Raises:
        ArgumentError: the name is unknown; the hint suggests one.
    """
    if key not in METRICS:
        choices = [*METRICS, *([GATES] if option == "--columns" else [])]
        raise ArgumentError(f"{key!r} is no metric", where=option, hint=nearest(key, choices))


def sort_rows(results: Results, key: str) -> Results:
    """Return the results with their rows in the order of a metric, the best first, those without a value last."""
    metric = METRICS[key]
    sign = -1 if metric.better == "higher" else 1

    def rank(row: Row) -> tuple[bool, float]:
        value = metric.value_of(row, results)
        missing = value is None or math.isnan(value.value)
        return missing, 0.0 if value is None or missing else sign * value.value

    return results.model_copy(update={"rows": sorted(results.rows, key=rank)})


def columns_of(results: Results, keys: Sequence[str]) -> list[Column]:
    """Return the columns of these keys with what they say of every row."""
    return [Column(key, _heading(key, results), [_cell(key, row, results) for row in results.rows]) for key in keys]


def gate_word(row: Row, results: Results) -> str:
    """Return in a word or two how a row's gates came out; empty if it has none."""
    if results.quick:
        return QUICK
    outcomes = {gate.outcome for gate in results.gates if gate.variant == row.name}
    words = {"failed": "failed", "undecided": "open", "passed": "passed"}
    return next((word for outcome, word in words.items() if outcome in outcomes), "")


def blocks_of(columns: Sequence[Column], names: Collection[str], width: int) -> list[Block]:
    """Arrange columns in blocks of at most `width` characters, with as many intervals as there is room for.

    The usual columns are one block from :data:`TWO_BLOCKS_BELOW` characters on, and have all intervals from
    :data:`ALL_INTERVALS_FROM` on: if that is too wide, and below, quality and speed are two blocks.
    """
    usual = [column.key for column in columns] == list(DEFAULT)
    if not usual:
        return _packed("", columns, names, width)
    if width >= TWO_BLOCKS_BELOW:
        always = [column.key for column in columns] if width >= ALL_INTERVALS_FROM else _ALWAYS
        if block := _fitted("", columns, names, width, always):
            return [block]
    quality = [column for column in columns if column.key in (*QUALITY, GATES)]
    speed = [column for column in columns if column.key in SPEED]
    return [
        *_packed("Quality and size", quality, names, width),
        *_packed("Speed and memory", speed, names, width),
    ]


def _packed(title: str, columns: Sequence[Column], names: Collection[str], width: int) -> list[Block]:
    """Return as few blocks as the columns fit in; one column is a block however wide it is."""
    for count in range(len(columns), 0, -1):
        block = _fitted(title, columns[:count], names, width) or (
            Block(title, list(columns[:count]), frozenset(), 1) if count == 1 else None
        )
        if block:
            return [block, *_packed(title, columns[count:], names, width)]
    return []


def _fitted(
    title: str, columns: Sequence[Column], names: Collection[str], width: int, always: Collection[str] = ()
) -> Block | None:
    """Return a block with the intervals of `always` and as many more as fit; None if it is too wide."""
    room = width - max(len(title), min(_NAMES, max(map(len, names), default=0)))

    def fits(intervals: Collection[str], gap: int) -> bool:
        return sum(gap + column.width(interval=column.key in intervals) for column in columns) <= room

    keys = [column.key for column in columns]
    if fits(keys, 2):
        return Block(title, list(columns), frozenset(keys), 2)
    chosen = [key for key in keys if key in always]
    if not fits(chosen, 1):
        return None
    for key in (*_FIRST, *keys):
        if key in keys and fits([*chosen, key], 1):
            chosen.append(key)
    return Block(title, list(columns), frozenset(chosen), 1)


def _heading(key: str, results: Results) -> list[str]:
    if key == "speedup_baseline":
        return [f"×{results.baseline.removeprefix('torch-')}", "decode"]
    if key in _HEADINGS:
        return _HEADINGS[key].split("\n")
    unit = METRICS[key].unit
    return [*textwrap.wrap(METRICS[key].label, 14), *([unit] if unit else [])]


def _cell(key: str, row: Row, results: Results) -> FormattedValue:
    if key == GATES:
        return FormattedValue(gate_word(row, results), "")
    metric = METRICS[key]
    value = metric.value_of(row, results)
    if value is None and key.endswith("_weights"):
        return FormattedValue("0", "")  # the row has the reference's own weights
    return format_plus_minus(metric, row, value)
