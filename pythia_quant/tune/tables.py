"""What a search prints: tables for a terminal, and lines of them as data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from pythia_quant.bench.metrics import plus_minus
from pythia_quant.model.architecture import LINEARS
from pythia_quant.tune.budget import Budget
from pythia_quant.tune.choices import Option
from pythia_quant.tune.comparison import Line
from pythia_quant.tune.matrix import Matrix
from pythia_quant.tune.plots import front, knee, shown_option
from pythia_quant.tune.records import Cell, Sensitivity
from pythia_quant.tune.trials import Trial


def _plain(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", no_wrap=number > 0, overflow="fold")
    return table


def sensitivity_table(sensitivity: Sensitivity) -> Table:
    """Return a table of all tensors in all options, mnat."""
    options = _options(sensitivity)
    table = _plain("", *options)
    for row in sensitivity.tensors:
        cells = {cell.option: cell for cell in row.cells}
        table.add_row(row.tensor, *(_cell(cells.get(option)) for option in options))
    return table


def _options(sensitivity: Sensitivity) -> list[Option]:
    """Return the options of all tensors, those of the fewest bytes first, without those that round next to nothing."""
    sizes: dict[Option, float] = {}
    for row in sensitivity.tensors:
        largest = max(cell.bytes for cell in row.cells)
        for cell in row.cells:
            if cell.bytes < largest:
                sizes.setdefault(cell.option, cell.bytes / largest)
    return sorted(sizes, key=sizes.__getitem__)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    large = cell.value >= 0.1
    value = f"{1000 * cell.value:{'.0f' if large else '.2g'}}"
    return value if cell.margin is None else f"{value}±{1000 * cell.margin:{'.0f' if large else '.1g'}}"


def sensitivity_sentences(sensitivity: Sensitivity) -> list[str]:
    """Return what the table shows, in sentences."""
    option = shown_option(sensitivity)
    table = sensitivity.table()
    costs = {key: cells[option].value for key, cells in table.items() if option in cells}
    worst = sorted(costs, key=lambda key: -costs[key])[:3]
    kinds = {name: sum(value for key, value in costs.items() if key.endswith(name)) for name in LINEARS}
    among = ", ".join(f"{key} ({1000 * costs[key]:.2g})" for key in worst)
    text, seconds = sensitivity.text.name, sensitivity.seconds
    said = [
        f"KL in mnat, {'± 95 % interval' if sensitivity.way == 'measured' else 'predicted'}, each tensor alone, on "
        f"{sensitivity.windows} × {sensitivity.context} tokens of {text} ({seconds:.0f} s of the processor).",
        f"In {option} most is lost by {among}; of the layers, by {max(kinds, key=lambda name: kinds[name])}.",
    ]
    if sensitivity.rank_correlation is not None:
        said.append(f"Predicted and measured: Spearman's rank correlation {sensitivity.rank_correlation:.3f}.")
    return said


def comparison_table(lines: Sequence[Line], budget: Budget) -> Table:
    """Return the mix beside uniform choices, on the evaluation text; what they are is said in sentences below."""
    table = _plain("on the evaluation text", "MB", "KL, mnat", "less the mix's", "of the limit" if budget.drift else "")
    names = {"mix": "tuned", "same size": "best uniform, at most as large", "within": "smallest uniform within"}
    for line in lines:
        difference = "" if line.difference is None else _difference(line.difference)
        use = f"{100 * budget.use(line.trial.results):.0f} %" if budget.drift else ""
        table.add_row(names[line.role], f"{line.trial.bytes / 1e6:.3f}", plus_minus(line.kl), difference, use)
    return table


def _difference(difference: tuple[float, float, float]) -> str:
    value, low, high = difference
    return f"{value:+.3g} ± {(high - low) / 2:.2g}"


def trials_table(trials: Iterable[Trial]) -> Table:
    """Return all trials by size, with the front and its knee marked."""
    ordered = sorted(trials, key=lambda trial: trial.bytes)
    best = front(ordered)
    middle = knee(best)
    table = _plain("all that was measured, on the selection text", "MB", "KL, mnat", "alone, summed", "")
    for trial in ordered:
        mark = "knee" if trial == middle else "front" if trial in best else ""
        table.add_row(
            f"{trial.variant}: {trial.name}", f"{trial.bytes / 1e6:.3f}", f"{1000 * trial.kl:.3g}",
            f"{1000 * trial.alone:.3g}", mark,
        )  # fmt: skip
    return table


def line_data(line: Line, budget: Budget) -> dict[str, Any]:
    """Return a line as plain data."""
    value = line.kl
    return {
        "role": line.role, "choices": line.trial.choices, "bytes": line.trial.bytes,
        "kl_mnat": [value.value, value.low, value.high], "difference_mnat": line.difference,
        "use": budget.use(line.trial.results) if budget.drift else None,
    }  # fmt: skip


def matrix_table(matrix: Matrix) -> Table:
    """Return what calibrating on each text costs on each, mnat."""
    table = _plain("calibrated on", *(f"on {name}" for name in matrix.texts))
    for row, name in enumerate(matrix.texts):
        cells = []
        for column in range(len(matrix.texts)):
            excess = matrix.excess(row, column)
            more = "" if row == column else f" ({excess.value:+.2f} ± {excess.high - excess.value:.2f})"
            cells.append(f"{plus_minus(matrix.kl(row, column))}{more}")
        table.add_row(name, *cells)
    return table


def matrix_data(matrix: Matrix) -> dict[str, Any]:
    """Return the same as plain data."""
    places = range(len(matrix.texts))
    return {
        "variant": matrix.variant,
        "texts": matrix.texts,
        "kl_mnat": [[list(vars(matrix.kl(row, column)).values()) for column in places] for row in places],
        "less_own_mnat": [[list(vars(matrix.excess(row, column)).values()) for column in places] for row in places],
    }
