"""The table of one benchmark run as wide as the terminal allows, and that of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pythia_quant.bench.compare import Change, Comparison
from pythia_quant.bench.metrics import METRICS, Value, bits_per_byte, plus_minus, reference_perplexity
from pythia_quant.records.results import Results, Row
from pythia_quant.report.columns import DEFAULT, GATES, Block, Column, blocks_of, columns_of
from pythia_quant.report.legend import NOT_OURS, Entry, definitions, particulars, sentences

NOTES_WIDTH = 100
"""The longest line of text below a table, whatever the width of the terminal: longer ones are hard to read."""
_TERMS = 17
"""The characters that the terms beside the notes take at most."""
_GATE_STYLES = {"passed": "green", "failed": "bold red", "open": "yellow"}


class ResultsTable:
    """The table of a result, with its legend; it is arranged for the width that it is printed in.

    Headings give the units. In less than 100 columns quality and speed are two blocks; from 140 on every number has
    its interval.

    Args:
        results: what was measured.
        keys: the columns, see :data:`pythia_quant.report.columns.DEFAULT`.
        explain: whether the legend defines the columns, too.
    """

    def __init__(self, results: Results, keys: Sequence[str] = DEFAULT, *, explain: bool = True) -> None:
        self._results, self._keys, self._explain = results, keys, explain

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        results = self._results
        names = [_shown(row) for row in results.rows]
        blocks = blocks_of(columns_of(results, self._keys), names, options.max_width)
        yield Text(_title(results), style="bold")
        for block in blocks:
            yield ""
            yield _table(block, results)
        yield ""
        entries = particulars(results)
        yield _notes([*definitions(results, blocks), *entries] if self._explain else entries, options.max_width)
        for sentence in sentences(results):
            yield Constrain(Text(sentence, style="yellow"), NOTES_WIDTH)


def print_results(results: Results, console: Console, *, width: int | None = None, explain: bool = True) -> None:
    """Print the table, in `width` columns if that is less than the console has; see :class:`ResultsTable`."""
    console.print(ResultsTable(results, explain=explain), width=width)


def _title(results: Results) -> str:
    source, protocol = results.source, results.protocol
    return (
        f"{source.model} ({source.commit[:12] if source.commit else source.revision}): "
        f"{source.parameters:,} parameters\n"
        f"fp32 reference: perplexity {plus_minus(reference_perplexity(results))}, "
        f"{bits_per_byte(results, results.reference_nll).value:.3f} bits a byte, on "
        f"{protocol.windows} × {protocol.context:,} tokens"
    )


def _table(block: Block, results: Results) -> Table:
    table = Table(box=None, padding=(0, block.gap, 0, 0), pad_edge=False, header_style="bold")
    lines = max(len(column.heading) for column in block.columns)
    # A long name is folded; a number never is.
    table.add_column(_heading([block.title], lines), overflow="fold")
    for column in block.columns:
        table.add_column(_heading(column.heading, lines), justify="right", no_wrap=True)
    cells = [_cells(column, interval=column.key in block.intervals) for column in block.columns]
    for row, values in zip(results.rows, zip(*cells, strict=True), strict=True):
        table.add_row(Text(_shown(row)), *values, style="bold" if row.name == results.baseline else "")
    return table


def _shown(row: Row) -> str:
    """Return the name of a row, with a mark if others made what it measures."""
    return f"{row.name}{NOT_OURS if row.foreign else ''}"


def _heading(lines: list[str], count: int) -> Text:
    """Return a heading that stands at the bottom of so many lines."""
    return Text("\n" * (count - len(lines)) + "\n".join(lines))


def _cells(column: Column, *, interval: bool) -> Iterable[Text]:
    """Return the cells of a column, so that its intervals stand below each other."""
    for cell in column.cells:
        if column.key == GATES:
            yield Text(cell.text, style=_GATE_STYLES.get(cell.text, ""))
        elif interval:
            value = (cell.text.rjust(column.value_width), "")
            yield Text.assemble(value, (cell.interval.ljust(column.interval_width), "dim"))
        else:
            yield Text(cell.text)


def _notes(entries: Sequence[Entry], width: int) -> Table:
    notes = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    terms = min(_TERMS, max(len(entry.term) for entry in entries))
    notes.add_column(width=terms, overflow="fold")
    notes.add_column(max_width=max(20, min(width, NOTES_WIDTH) - terms - 2), overflow="fold")
    for entry in entries:
        notes.add_row(Text(entry.term), Text(entry.text), style="dim")
    return notes


_STYLES = {"worse": "bold red", "better": "green", "changed": "yellow", "same": "dim"}


def changes_table(comparison: Comparison, *, everything: bool = False) -> RenderableType:
    """Return the table of the changed values, or of all values if `everything`, with the notes below it."""
    changes = [change for change in comparison.changes if everything or change.verdict != "same"]
    table = Table(box=None, padding=(0, 1, 0, 0))
    for index, heading in enumerate(("row", "value", "before", "after", "difference", "")):
        table.add_column(heading, justify="right" if 2 <= index <= 4 else "left")
    for change in changes:
        metric = METRICS[change.metric]
        unit = f", {metric.unit}" if metric.unit else ""
        cells = (escape(change.row), f"{metric.label}{unit}", _number(change.before.value), _number(change.after.value))
        style = _STYLES[change.verdict]
        table.add_row(*cells, _interval(change.difference), change.verdict, style=style)
    same = sum(change.verdict == "same" for change in comparison.changes)
    summary = f"{len(comparison.changes)} values compared, {same} are the same within their error."
    parts: list[RenderableType] = [table] if changes else []
    return Group(*parts, Text("\n".join([summary, *comparison.notes]), style="dim"))


def changes_data(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON data: every value with its unit, and the notes."""
    return {"changes": [_entry(change) for change in comparison.changes], "notes": comparison.notes}


def _entry(change: Change) -> dict[str, Any]:
    values = {name: getattr(change, name)._asdict() for name in ("before", "after", "difference")}
    return asdict(change) | values | {"unit": METRICS[change.metric].unit}


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _interval(value: Value) -> str:
    return f"{value.value:+.3g} [{value.low:+.3g}, {value.high:+.3g}]"
