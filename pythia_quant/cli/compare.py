"""pythia-quant compare: what changed between results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pythia_quant.cli.options import AsJson
from pythia_quant.core.console import WORSE_CODE, example, out_console, print_json
from pythia_quant.core.errors import ArgumentError

# ruff: noqa: PLC0415 - --help answers at once: what needs matplotlib is imported when it is needed

commands = typer.Typer()

WORSE = 3
"""Exit code of a comparison in which something became worse."""


@commands.command(
    epilog=example(
        "pythia-quant compare last-week.json artifacts/demo/builtin/results.json",
        "pythia-quant compare results.json results.json --rows gptq-int4=their-gptq",
        "pythia-quant compare before.json laptop.json server.json --json",
        codes=WORSE_CODE,
        variables=["output"],
    )
)
def compare(
    before: Annotated[
        Path, typer.Argument(metavar="BEFORE", help="A result file that `bench` or `run` has written, or its folder.")
    ],
    after: Annotated[
        list[Path],
        typer.Argument(
            metavar="AFTER", help="One or more result files on the same text. Each is compared with BEFORE."
        ),
    ],
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--rows",
            metavar="NAME=OTHER",
            help="Compare the row NAME of BEFORE with the row OTHER of AFTER, such as ours with what others made. "
            "Repeat the option for several.",
            show_default="rows of one name",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also show what did not change.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what changed between results beyond error, for two versions or two machines.

    Results on different texts or by different protocols are refused.
    """
    from pythia_quant.bench.compare import compare_results
    from pythia_quant.report.files import read_files
    from pythia_quant.report.terminal import changes_data, changes_table

    first, *others = read_files([before, *after])
    pairs = [_pair(text) for text in rows or []]
    comparisons = [
        (other, compare_results(first.results, other.results, (first.name, other.name), pairs)) for other in others
    ]
    if as_json:
        data = [{"before": first.name, "after": other.name} | changes_data(each) for other, each in comparisons]
        print_json(data if len(data) > 1 else data[0])
    for other, comparison in () if as_json else comparisons:
        out_console.print(f"before: {first.name}, after: {other.name}", markup=False, highlight=False, soft_wrap=True)
        out_console.print(changes_table(comparison, everything=everything))
    if any(comparison.worse for _, comparison in comparisons):
        raise typer.Exit(WORSE)


def _pair(text: str) -> tuple[str, str]:
    name, _, other = text.partition("=")
    if not name or not other:
        raise ArgumentError(f"{text!r} names no two rows", where="--rows", hint="give one such as gptq-int4=theirs")
    return name, other
