"""pythia-quant source: what a hub holds of a checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pythia_quant.cli.options import AsJson
from pythia_quant.core.console import example, out_console, print_json, progress_console
from pythia_quant.model import suite

if TYPE_CHECKING:
    from pythia_quant.model.revision_faults import Finding
    from pythia_quant.model.revisions import Listing, Revision

# ruff: noqa: PLC0415 - --help answers at once

commands = typer.Typer()


@commands.command(
    epilog=example(
        "pythia-quant source EleutherAI/pythia-160m",
        "pythia-quant source EleutherAI/pythia-2.8b --steps all",
        variables=["output", "hub"],
    )
)
def source(
    model: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository of a model on the hub.")],
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps",
            metavar="RANGE",
            help="Also compare these revisions: step1000..step3000, step1000..step143000/10, step0,step512, or all.",
            show_default="main alone",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the hashes of a model's weights on the hub, and what is wrong with its revisions.

    --steps finds steps that are missing or have no weights, and steps with the weights of another one. The hashes are
    those that the hub records; large files are not downloaded.
    """
    from pythia_quant.core.hub_client import check_name
    from pythia_quant.core.progress import Steps
    from pythia_quant.model.revision_faults import find_faults
    from pythia_quant.model.revisions import read_main, read_steps

    check_name(model, "source")
    repo_id, renamed = suite.resolve(model)
    if renamed:
        progress_console.print(renamed, markup=False, soft_wrap=True)
    with Steps(1, progress_console) as only, only.step(f"reading {repo_id}") as progress:
        listing = None if steps is None else read_steps(repo_id, steps, progress)
        revisions = listing.revisions if listing else (read_main(repo_id),)
    findings = find_faults(listing) if listing else []
    if as_json:
        shown = {"model": repo_id, "revisions": [_as_data(one) for one in revisions]}
        print_json(shown | ({"findings": [asdict(one) for one in findings]} if listing else {}))
    elif listing:
        show_steps(listing, findings, out_console)
    else:
        show_main(repo_id, revisions[0], out_console)


def show_main(repo_id: str, main: Revision, console: Console) -> None:
    """Print the weights of main, a line each."""
    console.print(f"[bold]{escape(repo_id)}[/] {main.name}, commit {main.commit}", soft_wrap=True)
    for file in main.files:
        console.print(
            f"{file.sha256}  {file.name}, {file.bytes / 1e6:,.1f} MB", markup=False, soft_wrap=True, highlight=False
        )
    if not main.files:
        console.print("no weights")


def show_steps(listing: Listing, findings: list[Finding], console: Console) -> None:
    """Print the weights of every revision, and the findings."""
    from pythia_quant.model.revision_faults import described

    table = Table(box=None, pad_edge=False)
    for heading in ("revision", "file", "MB", "sha256"):
        table.add_column(heading, justify="right" if heading == "MB" else "left", no_wrap=True)
    for one in listing.revisions:
        for file in one.files:
            table.add_row(escape(one.name), escape(file.name), f"{file.bytes / 1e6:,.1f}", f"{file.sha256[:16]}…")
    console.print(table)
    steps = [one for one in listing.revisions if one.name != "main"]
    count = f"{len(steps)} of {len(steps) + len(listing.missing)} steps are on the hub; findings: {len(findings)}"
    console.print(f"\n[bold]{escape(listing.model)}[/]: {count}", soft_wrap=True, highlight=False)
    for finding in findings:
        console.print(escape(described(finding, listing)), soft_wrap=True, highlight=False)


def _as_data(revision: Revision) -> dict[str, object]:
    return {name: value for name, value in asdict(revision).items() if name != "others"}
