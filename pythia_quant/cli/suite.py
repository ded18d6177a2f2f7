"""pythia-quant suite: the sizes, families and seeds of the Pythia suite."""

from __future__ import annotations

from typing import Any

import typer
from rich.table import Table

from pythia_quant.cli.options import AsJson
from pythia_quant.core.console import example, out_console, print_json
from pythia_quant.model import suite

commands = typer.Typer()

_FAMILIES = {
    "": "trained on the Pile", "-deduped": "on the deduplicated Pile", "-v0": "first release",
    "-deduped-v0": "first release",
}  # fmt: skip

_SEEDS: dict[suite.SeedKind, str] = {
    "run": "another seed of everything",
    "weight": "another seed of the weights",
    "data": "another seed of the data",
}


@commands.command("suite", epilog=example("pythia-quant suite --json", variables=["output"]))
def show_suite(as_json: AsJson = False) -> None:
    """Show the sizes, families and seeds of the Pythia suite."""
    if as_json:
        print_json([_as_data(size) for size in suite.SIZES.values()])
        return
    out_console.print(_sizes())
    out_console.print()
    out_console.print(_families())
    unconfirmed = ", ".join(member.repo_id for member in suite.members() if not member.confirmed)
    out_console.print(
        "\nA repository is EleutherAI/pythia-SIZE-FAMILY; the plain one has no -FAMILY.\n"
        "154 revisions are step0 to step143000; 143 begin at step1000. Seeds are the\n"
        "PolyPythias; the families themselves have the seed 1234.\n"
        f"Not confirmed to be on the hub: {unconfirmed}.",
        style="dim",
        highlight=False,
    )


def _as_data(size: suite.Size) -> dict[str, Any]:
    members = [
        {
            "repo_id": member.repo_id, "family": member.family, "seed": member.seed, "seed_kind": member.seed_kind,
            "revisions": len(member.steps), "confirmed": member.confirmed,
        }
        for member in suite.members() if member.size == size
    ]  # fmt: skip
    return vars(size) | {"members": members}


def _sizes() -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("size", "layers", "width", "heads", "vocabulary", "parameters", "non-embedding"):
        table.add_column(heading, justify="left" if heading == "size" else "right", no_wrap=True)
    for size in suite.SIZES.values():
        numbers = (size.layers, size.width, size.heads, size.vocabulary, size.parameters, size.non_embedding_parameters)
        table.add_row(size.name, *(f"{number:,}" for number in numbers))
    return table


def _families() -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("family", "sizes", "revisions", ""):
        table.add_column(heading, justify="right" if heading == "revisions" else "left", no_wrap=True)
    members = suite.members()
    for family, what in _FAMILIES.items():
        of_family = [member for member in members if member.family == family and member.seed is None]
        sizes = f"{of_family[0].size.name} to {of_family[-1].size.name}"
        table.add_row(family.lstrip("-") or "plain", sizes, str(len(of_family[0].steps)), what)
    for kind, what in _SEEDS.items():
        seeds = [member for member in members if member.seed_kind == kind]
        name = seeds[0].repo_id.partition(f"pythia-{seeds[0].size.name}-")[2]
        sizes = " ".join(dict.fromkeys(member.size.name for member in seeds))
        table.add_row(f"{name}–{seeds[-1].seed}", sizes, str(len(seeds[0].steps)), what)
    return table
