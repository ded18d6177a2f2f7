"""pythia-quant cache: what the cache holds, and how to empty it."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pythia_quant.cli.options import AsJson
from pythia_quant.core.cache_content import KINDS, Entry, clean, entries
from pythia_quant.core.console import example, out_console, print_json
from pythia_quant.core.files import cache_folder

commands = typer.Typer()

cache = typer.Typer(help="Show what the cache holds, and remove it.", no_args_is_help=True)

commands.add_typer(cache, name="cache")


@cache.command("info", epilog=example("pythia-quant cache info", variables=["files", "output"]))
def show_cache(as_json: AsJson = False) -> None:
    """Show what the cache holds: entries, sizes, and how many days ago they were used.

    The cache is in PYTHIA_QUANT_CACHE, or else in the user's cache folder. The hub's client has a cache of its own.
    """
    content = {kind: entries(kind) for kind in KINDS}
    folder = str(cache_folder("").absolute())
    if as_json:
        kinds = {kind: [_record(entry) for entry in those] for kind, those in content.items()}
        print_json({"folder": folder, "kinds": kinds})
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("kind", "entries", "MB", "days since use", "what it is"):
        table.add_column(heading, justify="left" if heading in ("kind", "what it is") else "right")
    for kind, those in content.items():
        days = [_days(entry) for entry in those]
        span = f"{min(days):.0f} to {max(days):.0f}" if days else "–"
        table.add_row(kind, str(len(those)), f"{_megabytes(those):,.1f}", span, KINDS[kind])
    out_console.print(table)
    total = _megabytes([entry for those in content.values() for entry in those])
    out_console.print(f"{total:,.1f} MB in {escape(folder)}", soft_wrap=True)


@cache.command(
    "clean",
    epilog=example(
        "pythia-quant cache clean", "pythia-quant cache clean --older-than 30", variables=["files", "output"]
    ),
)
def clean_cache(
    older_than: Annotated[
        float,
        typer.Option("--older-than", metavar="DAYS", min=0, help="Remove only what was not used for so many days."),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Remove what the cache holds; it is made or downloaded again when it is needed. Nothing is asked.

    What another process is making stays, and so do references and artifacts that were used within a day: a program may
    still read them.
    """
    cleaning = clean(older_than)
    if as_json:
        parts = {"removed": cleaning.removed, "in_use": cleaning.in_use}
        print_json({name: [_record(entry) for entry in those] for name, those in parts.items()})
        return
    for kind in KINDS:
        those = [entry for entry in cleaning.removed if entry.kind == kind]
        if those:
            out_console.print(f"{kind}: removed {len(those)}, {_megabytes(those):,.1f} MB")
    out_console.print(f"{_megabytes(cleaning.removed):,.1f} MB are free again.")
    if cleaning.in_use:
        stay = f"{len(cleaning.in_use)} entries, {_megabytes(cleaning.in_use):,.1f} MB"
        out_console.print(f"{stay}, stay: they are locked, or were used within a day.")


def _record(entry: Entry) -> dict[str, object]:
    return {"kind": entry.kind, "path": str(entry.path), "bytes": entry.bytes, "days_since_use": round(_days(entry), 3)}


def _days(entry: Entry) -> float:
    return max(0.0, time.time() - entry.used) / 86_400


def _megabytes(those: list[Entry]) -> float:
    return sum(entry.bytes for entry in those) / 1e6
