"""pythia-quant compare: what changed between two results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pythia_quant.cli.options import AsJson
from pythia_quant.core.console import example, out_console

# ruff: noqa: PLC0415 - --help answers at once: what needs matplotlib is imported when it is needed

commands = typer.Typer()

WORSE = 3
"""Exit code of a comparison in which something became worse."""


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
