"""What `run --dry-run` prints: steps with their disk, memory and time, beside what is free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from pythia_quant.bench.rows import Options
from pythia_quant.core.console import out_console, print_json, progress_console
from pythia_quant.core.progress import Notices, Steps, duration
from pythia_quant.library.forecast import Forecast, forecast
from pythia_quant.recipe.overrides import without_fetched_passages
from pythia_quant.recipe.recipe import Recipe


class _Line(NamedTuple):
    """A step with what it takes: bytes on disk and in memory, and seconds; None where that says nothing."""

    step: str
    disk: int | None
    memory: int | None
    seconds: float | None


def dry_runs(
    recipes: list[Recipe], out: Path, only: list[str], options: Options, *, overwrite: bool, as_json: bool
) -> None:
    """Print what `run` will do with each recipe, as a table, or as one JSON document; nothing is done."""
    names = list(recipes[0].variants(only))
    planned = []
    with Steps(len(recipes), progress_console) as steps:
        for recipe in recipes:
            chosen = without_fetched_passages(recipe, names, Notices(progress_console))
            with steps.step("opening source and texts") as step:
                planned.append(forecast(chosen, names, out, options, step, overwrite=overwrite))
    if as_json:
        data = [asdict(one) | {"seconds": one.seconds} for one in planned]
        print_json(data if len(data) > 1 else data[0])
        return
    for one in planned:
        _print(one)


def _print(planned: Forecast) -> None:
    source = f"{planned.model} ({planned.revision})"
    out_console.print(f"[bold]{escape(source)}[/]: {planned.parameters:,} parameters", highlight=False, soft_wrap=True)
    out_console.print(_texts(planned), markup=False, highlight=False)
    out_console.print()
    out_console.print(_table(planned))
    out_console.print()
    for sentence in _sentences(planned):
        out_console.print(sentence, style="yellow", markup=False, soft_wrap=True)
    download = "; the download comes on top" if planned.download_bytes else ""
    out_console.print(f"Nothing was converted or measured. Times are rough ones for two cores{download}.", style="dim")


def _texts(planned: Forecast) -> str:
    windows, context = planned.evaluation
    parts = [f"evaluation on {windows:,} × {context:,} tokens"]
    if planned.calibration[0]:
        parts.append(f"calibration on {planned.calibration[0]:,} × {planned.calibration[1]:,}")
    if planned.passages is not None:
        parts.append(f"LAMBADA on {planned.passages:,} passages")
    return ", ".join(parts)


def _table(planned: Forecast) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("step", "MB on disk", "GB of memory", "time"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for line in _lines(planned):
        disk = "" if line.disk is None else f"{line.disk / 1e6:,.0f}"
        memory = "" if line.memory is None else f"{line.memory / 1e9:,.1f}"
        time = "" if line.seconds is None else duration(line.seconds)
        table.add_row(escape(line.step), disk, memory, time, style="bold" if line.step == "together" else "")
    return table


def _lines(planned: Forecast) -> Iterator[_Line]:
    if planned.download_bytes:
        yield _Line("download the weights", planned.download_bytes, None, None)
    for one in planned.conversions:
        if one.is_there:
            yield _Line(f"check {one.variant}, which is there already", None, None, one.seconds)
        else:
            yield _Line(f"convert {one.variant}", one.bytes + one.scratch_bytes, one.memory_bytes, one.seconds)
    whole = sum(row.whole for row in planned.rows)
    memory = max(row.memory_bytes for row in planned.rows)
    rounds = f"{planned.rounds} round{'' if planned.rounds == 1 else 's'}"
    names = {
        "drift": f"drift of {len(planned.rows)} rows and the reference",
        "LAMBADA": f"LAMBADA of {whole} rows",
        "speed": f"speed of {whole} rows, {rounds}",
    }
    for kind, seconds in planned.measuring_seconds.items():
        yield _Line(names[kind], None, memory if kind == "drift" else None, seconds)
    yield _Line("together", planned.disk_bytes, planned.memory_bytes, planned.seconds)
    yield _Line("free here", planned.free_disk_bytes, planned.free_memory_bytes, None)


def _sentences(planned: Forecast) -> Iterator[str]:
    if planned.disk_bytes > planned.free_disk_bytes:
        yield "The disk is too small for this: free some, or choose another --out."
    if planned.memory_bytes > planned.free_memory_bytes:
        yield "A conversion needs more memory than is free."
    in_layers = [row.row for row in planned.rows if not row.whole]
    if in_layers:
        yield f"Too large for the memory, so run layer by layer, if at all, and without speed: {', '.join(in_layers)}."
