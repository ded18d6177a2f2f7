"""pythia-quant report: a page of results."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pythia_quant.cli.arguments import check_out, parse_out
from pythia_quant.cli.options import AsJson
from pythia_quant.core.console import example, out_console, print_json
from pythia_quant.core.errors import ArgumentError

# ruff: noqa: PLC0415 - --help answers at once: what needs matplotlib is imported when it is needed

commands = typer.Typer()


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
        list[Path],
        typer.Argument(metavar="RESULTS", help="A result file, or a folder with a results.json. Give one or more."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            parser=parse_out,
            help="The folder for the page and its plots. An earlier report there is replaced.",
            show_default="report",
        ),
    ] = None,
    form: Annotated[
        list[TableForm] | None,
        typer.Option(
            "--format",
            help="Print a table of this form instead of the page; with --out, write both. Repeat it for several.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show result files as one HTML page with plots as SVG and PNG, or as a table in Markdown, CSV or JSON."""
    if out is not None:
        check_out(out)
    from pythia_quant.report.files import read_files
    from pythia_quant.report.tables import TableFormat, render_table

    forms: list[TableFormat] = [one.value for one in form or []]
    if forms and out is None:
        if as_json:
            raise ArgumentError(
                "is for a report that is written; --format prints a table", where="--json", hint="add --out, or omit it"
            )
        files = read_files(results)
        for one in forms:
            print(render_table(files, one), end="")
        return
    from pythia_quant.report.write import write_report

    written = write_report(results, out or Path("report"), forms)
    if as_json:
        files_written = sorted(path for path in written.parent.rglob("*") if path.is_file())
        print_json({"page": written, "files": files_written})
    else:
        out_console.print(f"Written to {written}", markup=False, soft_wrap=True)
