"""Showing and comparing results."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pythia_quant.commands.options import AsJson
from pythia_quant.core.console import example, out_console

# ruff: noqa: PLC0415 - --help answers at once: what needs matplotlib is imported when it is needed

commands = typer.Typer()
WORSE = 3
"""Exit code of a comparison in which something became worse."""


class TableForm(StrEnum):
    """How a table of results is written."""

    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


@commands.command(
    epilog=example(
        "pythia-quant report artifacts/demo/builtin/results.json --out report",
        "pythia-quant report artifacts/*/main/ --format markdown > table.md",
    )
)
def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="Result files, or folders with a results.json.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder for the page and its plots; an earlier report there is replaced. [default: report]",
        ),
    ] = None,
    form: Annotated[
        list[TableForm] | None,
        typer.Option(
            "--format",
            help="Print a table instead of writing the page; with --out, leave it beside the page. Repeatable.",
        ),
    ] = None,
) -> None:
    """Show result files as one HTML page with plots as SVG and PNG, or as a table in Markdown, CSV or JSON."""
    from pythia_quant.report.files import read_files
    from pythia_quant.report.tables import TableFormat, render_table

    forms: list[TableFormat] = [one.value for one in form or []]
    if forms and out is None:
        files = read_files(results)
        for one in forms:
            print(render_table(files, one), end="")
        return
    from pythia_quant.report.write import write_report

    written = write_report(results, out or Path("report"), forms)
    out_console.print(f"Written to {written}", markup=False, soft_wrap=True)


@commands.command(epilog=example("pythia-quant compare last-week.json artifacts/demo/builtin/results.json"))
def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A result file that bench has written.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another one, on the same text.")],
    everything: Annotated[bool, typer.Option("--all", help="Show what did not change, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what changed between two results beyond error, for two versions or two machines.

    Exits with 3 when something became worse. Results on different texts or by different protocols are refused.
    """
    from pythia_quant.bench.compare import compare_results
    from pythia_quant.records.results import load_results
    from pythia_quant.report.terminal import changes_data, changes_table

    comparison = compare_results(load_results(before), load_results(after))
    if as_json:
        print(json.dumps(changes_data(comparison), indent=1))
    else:
        out_console.print(changes_table(comparison, everything=everything))
    if comparison.worse:
        raise typer.Exit(WORSE)
