"""pythia-quant show: the table of a result file again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pythia_quant.cli.options import AsJson
from pythia_quant.core.console import example, out_console, output_width

# ruff: noqa: PLC0415 - --help answers at once: what needs numpy is imported when it is needed

commands = typer.Typer()


@commands.command(
    epilog=example(
        "pythia-quant show artifacts/demo/builtin",
        "pythia-quant show results.json --columns bits_per_weight,kl,decode --sort kl",
        variables=["output"],
    )
)
def show(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS|FOLDER", help="A result file, or a folder: the newest result file in it or below it."
        ),
    ],
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            metavar="METRIC",
            help="Order the rows by this metric, the best first.",
            show_default="the order of the file",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="METRIC,...",
            help="Show these columns: ppl_drift, ppl_drift_weights, kl, top1, bits_per_weight, disk, prefill, decode, "
            "speedup_baseline, memory, gates, or any other metric of `report --format json`.",
            show_default="as many as fit",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the table of a result file again, as wide as the terminal. Nothing is measured."""
    from pythia_quant.core.text import printable_json
    from pythia_quant.records.results import load_results
    from pythia_quant.report.columns import DEFAULT, check_metric, parse_columns, sort_rows
    from pythia_quant.report.files import find_results
    from pythia_quant.report.tables import rows_json
    from pythia_quant.report.terminal import ResultsTable

    keys = DEFAULT if columns is None else parse_columns(columns)
    if sort is not None:
        check_metric(sort, "--sort")
    path = find_results(results)
    measured = load_results(path)
    if sort is not None:
        measured = sort_rows(measured, sort)
    if as_json:
        print(printable_json(rows_json(measured, None if columns is None else keys)))
        return
    out_console.print(ResultsTable(measured, keys), width=output_width())
    made = f"{measured.created:%Y-%m-%d %H:%M %Z} on {measured.machine.cpu}, {measured.machine.cores} cores"
    out_console.print(f"\nMeasured {made}", markup=False, highlight=False, width=output_width())
    out_console.print(f"From {path}", markup=False, highlight=False, soft_wrap=True)
