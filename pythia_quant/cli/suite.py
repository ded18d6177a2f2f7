"""pythia-quant suite: the sizes of the Pythia suite."""

from __future__ import annotations

import typer
from rich.table import Table

from pythia_quant.cli.options import AsJson
from pythia_quant.core.console import example, out_console, print_json
from pythia_quant.model import suite

commands = typer.Typer()


@commands.command("suite", epilog=example("pythia-quant suite --json", variables=["output"]))
def show_suite(as_json: AsJson = False) -> None:
    """Show the sizes of the Pythia suite."""
    if as_json:
        print_json([vars(size) for size in suite.SIZES.values()])
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("size", "layers", "width", "heads", "vocabulary", "parameters", "non-embedding", "families"):
        left = heading in ("size", "families")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for size in suite.SIZES.values():
        families = " ".join(m.family.lstrip("-") or "plain" for m in suite.members() if m.size == size)
        numbers = (size.layers, size.width, size.heads, size.vocabulary, size.parameters, size.non_embedding_parameters)
        table.add_row(size.name, *(f"{number:,}" for number in numbers), families)
    out_console.print(table)
    out_console.print("154 revisions each (step0 to step143000); the v0 families 143, from step1000.", style="dim")
