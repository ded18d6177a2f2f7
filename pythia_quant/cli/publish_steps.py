"""What the publishing of artifacts and of sites has in common: show the plan, ask, and upload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pythia_quant.core.console import out_console, print_json, progress_console

if TYPE_CHECKING:
    from pythia_quant.publishing.plan import Plan, Shipment
    from pythia_quant.publishing.upload import Published

# ruff: noqa: PLC0415 - --help answers at once


def carry_out(
    plans: Sequence[Plan[Shipment]],
    data: list[dict[str, object]] | None,
    *,
    private: bool,
    card_out: Path | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Show plans, or only write a card, ask, and upload what is new.

    Args:
        plans: at least one.
        data: what JSON says of each plan, to be printed with what was published; None to print for people.
        private: whether what is published is private.
        card_out: where to write the card of the only plan; nothing is published then.
        dry_run: whether nothing is published.
        yes: whether not to ask.
    """
    only_look = dry_run or card_out is not None
    if card_out is not None:
        _write_card(plans[0], card_out)
    if data is not None:
        found = [one | {"published": None} for one in data]
        try:
            if not only_look:
                _upload(plans, private=private, told=lambda place, done: found[place].update(published=vars(done)))
        finally:  # also of the artifacts before one that the hub refuses
            print_json(found)
        return
    _show(plans, card_out, with_card=card_out is None and len(plans) == 1 and not yes)
    if only_look:
        out_console.print("Nothing was published.")
        return
    if not yes and not all(plan.nothing_to_do for plan in plans):
        typer.confirm("Publish this?", abort=True)
    _upload(plans, private=private, told=lambda place, done: _show_published(plans[place], done))


def _write_card(plan: Plan[Shipment], path: Path) -> None:
    from pythia_quant.core.files import replace_file, target_lock

    with target_lock(path):
        replace_file(path, plan.publication.card)


def _show(plans: Sequence[Plan[Shipment]], card_out: Path | None, *, with_card: bool) -> None:
    """Print plans, before them the card of a single one, and where the card was written."""
    if with_card:
        print(plans[0].publication.card)
    for plan in plans:
        show_plan(plan, out_console)
    if card_out is not None:
        out_console.print(f"The card is in {escape(str(card_out))}.", soft_wrap=True)


def _upload(plans: Sequence[Plan[Shipment]], *, private: bool, told: Callable[[int, Published], object]) -> None:
    """Carry out the plans; `told` is called with the place of each among them, and with where its artifact is now."""
    from pythia_quant.core.progress import Steps
    from pythia_quant.publishing.plan import make_plan
    from pythia_quant.publishing.upload import publish as upload

    changed_repositories: set[str] = set()
    with Steps(len(plans), progress_console) as steps:
        for place, plan in enumerate(plans):
            with steps.step(f"publishing {plan.where}") as progress:
                repository = plan.publication.target.repo_id
                # A new branch begins as a copy of main, which an earlier upload may have changed.
                changed = repository in changed_repositories
                published = upload(make_plan(plan.publication, private=private) if changed else plan, progress)
                changed_repositories.add(repository)
            told(place, published)


def _show_published(plan: Plan[Shipment], published: Published) -> None:
    what = f"{published.uploaded} files, read back and compared" if published.uploaded else "was there already"
    out_console.print(f"[bold]{escape(plan.where)}[/]: {what}: {escape(published.url)}", soft_wrap=True)


def plan_data(plan: Plan[Shipment]) -> dict[str, object]:
    """Return what JSON says of the plan of any publication."""
    publication = plan.publication
    return {
        "repo_id": publication.target.repo_id,
        "branch": publication.target.revision,
        "private": plan.private,
        "create_repo": plan.create_repo,
        "create_branch": plan.create_branch,
        "head": plan.head,
        "nothing_to_do": plan.nothing_to_do,
        "files": [{"path": file.path, "bytes": file.content.bytes, "state": file.state} for file in plan.files],
        "deleted": plan.deleted,
        "kept": plan.kept,
    }


def show_plan(plan: Plan[Shipment], console: Console) -> None:
    """Print what publishing would change."""
    notes = [
        *(["new repository"] if plan.create_repo else []),
        *(["private"] if plan.private else []),
        *(["new branch"] if plan.create_branch else []),
        *([_why_not_compared()] if plan.head is None and not plan.create_repo else []),
        *(["nothing to upload"] if plan.nothing_to_do else []),
    ]
    title = plan.where + (f" ({', '.join(notes)})" if notes else "")
    console.print(f"[bold]{escape(title)}[/] from {escape(str(plan.publication.folder))}", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for heading in ("file", "MB", ""):
        table.add_column(heading, justify="right" if heading == "MB" else "left", overflow="fold")
    for file in plan.files:
        table.add_row(escape(file.path), f"{file.content.bytes / 1e6:,.3f}", file.state)
    for path in plan.deleted:
        table.add_row(escape(path), "", "removed: of the artifact that was there")
    for path in plan.kept:
        table.add_row(escape(path), "", "stays: not ours")
    console.print(table)
    _show_unknown(plan.publication, console)
    for sentence in plan.publication.despite:
        console.print(f"[yellow]{escape(sentence)}[/]", soft_wrap=True)


def _why_not_compared() -> str:
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"


def _show_unknown(publication: Shipment, console: Console) -> None:
    for sentence in publication.unknown:
        console.print(f"[yellow]not looked up:[/] {escape(sentence)}", soft_wrap=True)
