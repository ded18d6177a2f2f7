"""pythia-quant publish: put artifacts on a hub."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pythia_quant.cli.completion import complete_artifact
from pythia_quant.cli.options import AsJson
from pythia_quant.cli.outcomes import artifact_data
from pythia_quant.core.console import EVERY_VARIABLE, example, out_console, print_json, progress_console
from pythia_quant.core.errors import HubError

if TYPE_CHECKING:
    from pythia_quant.publishing.plan import Plan, Shipment
    from pythia_quant.publishing.publication import Publication
    from pythia_quant.publishing.upload import Published

# ruff: noqa: PLC0415 - --help answers at once

commands = typer.Typer()

RepoId = Annotated[
    str,
    typer.Option(
        "--repo-id",
        metavar="OWNER/NAME",
        help="Publish to this repository, which is made if needed. {model}, {revision}, {variant} are filled in.",
        show_default=False,
    ),
]
Branch = Annotated[
    str,
    typer.Option(
        "--revision",
        metavar="BRANCH",
        help="Publish to this branch, which is made if it is missing. It may have the same words.",
    ),
]
Everything = Annotated[
    Path | None, typer.Option("--all", metavar="DIR", help="Publish every artifact below this folder.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan and change nothing. This works without a network.")
]
CardOut = Annotated[
    Path | None,
    typer.Option("--card-out", metavar="FILE", help="Write the card to this file and publish nothing."),
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base-model",
        metavar="OWNER/NAME[@REVISION]",
        help="Name this repository as the source, which was a folder; hashes must agree. Or say 'none'.",
    ),
]
ResultFile = Annotated[
    Path | None,
    typer.Option(
        "--results",
        metavar="FILE",
        help="Publish the results in this file.",
        show_default="the latest beside the artifact",
    ),
]
DespiteGate = Annotated[
    str,
    typer.Option(
        "--despite-gate",
        metavar="REASON",
        help="Publish although a gate did not pass. The card shows the reason.",
        show_default=False,
    ),
]

Space = Annotated[
    bool, typer.Option("--space", help="Publish a site that `web` wrote, as a static Space, private if it is new.")
]
Public = Annotated[bool, typer.Option("--public", help="With --space: make the Space public, if it is new.")]


@commands.command(
    epilog=example(
        "pythia-quant publish artifacts/demo/builtin/onnx-int8 --repo-id me/demo-onnx-int8 --dry-run",
        "pythia-quant publish web-site --space --repo-id me/pythia-in-a-page --dry-run",
        "pythia-quant publish --all artifacts --repo-id 'me/{model}-{variant}' --revision '{revision}' --yes",
        variables=EVERY_VARIABLE,
    )
)
def publish(
    artifact: Annotated[
        Path | None,
        typer.Argument(
            metavar="ARTIFACT",
            help="The folder of an artifact; with --space, of a site.",
            show_default=False,
            autocompletion=complete_artifact,
        ),
    ] = None,
    repo_id: RepoId = "",
    revision: Branch = "main",
    everything: Everything = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private, if it is new.")] = False,
    dry_run: DryRun = False,
    card_out: CardOut = None,
    yes: Annotated[bool, typer.Option("--yes", help="Publish without asking.")] = False,
    base_model: BaseModel = None,
    results: ResultFile = None,
    despite_gate: DespiteGate = "",
    space: Space = False,
    public: Public = False,
    as_json: AsJson = False,
) -> None:
    """Put an artifact, its measurement and a card made from it on the Hugging Face hub, in one commit.

    The card and the plan are shown, and the command asks before it publishes. An artifact is refused if it does not
    verify, has no result for exactly these bytes, or missed a gate. Files that the repository has already are not sent
    again. With --space, a site that `web` wrote becomes a static Space, which is private unless --public is given.
    """
    from pythia_quant.artifacts.artifact import open_artifact
    from pythia_quant.publishing.publication import Target, prepare_publication

    if space or public:
        from pythia_quant.cli.publish_space import publish_space

        given = {"--all": everything, "--base-model": base_model, "--results": results, "--despite-gate": despite_gate}
        _check_space_options(given, artifact, revision, space=space, private=private, public=public)
        _check_options(repo_id, card_out, 1, asks=not (yes or dry_run or card_out), as_json=as_json)
        assert artifact is not None  # noqa: S101 - the options were checked
        publish_space(
            artifact, repo_id, private=not public, card_out=card_out, dry_run=dry_run, yes=yes, as_json=as_json
        )
        return
    folders = _folders(artifact, everything)
    only_look = dry_run or card_out is not None
    _check_options(repo_id, card_out, len(folders), asks=not (yes or only_look), as_json=as_json)
    target = Target(repo_id, revision)
    artifacts = [open_artifact(folder) for folder in folders]

    def prepare(folder: Path) -> Publication:
        return prepare_publication(
            folder, target, results=results, base=base_model, despite_gate=despite_gate, together=artifacts,
            without_hub=only_look,
        )  # fmt: skip

    plans = _plans(folders, prepare, private=private, without_hub=only_look)
    if card_out is not None:
        write_card(plans[0], card_out)
    if as_json:
        data = [_plan_data(plan) | {"published": None} for plan in plans]
        try:
            if not only_look:
                upload_plans(plans, private=private, told=lambda place, done: data[place].update(published=vars(done)))
        finally:  # also of the artifacts before one that the hub refuses
            print_json(data)
        return
    show_plans(plans, card_out, with_card=card_out is None and len(plans) == 1 and not yes)
    if only_look:
        out_console.print("Nothing was published.")
        return
    if not yes and not all(plan.nothing_to_do for plan in plans):
        typer.confirm("Publish this?", abort=True)
    upload_plans(plans, private=private, told=lambda place, done: show_published(plans[place], done))


def _check_space_options(
    given: dict[str, object], site: Path | None, revision: str, *, space: bool, private: bool, public: bool
) -> None:
    if not space:
        raise HubError("goes with --space", where="--public", hint="artifacts are public unless --private is given")
    if private and public:
        raise HubError("say one of the two", where="--private --public")
    if unfit := [name for name, value in given.items() if value] + (["--revision"] if revision != "main" else []):
        raise HubError("does not go with --space", where=unfit[0], hint="leave it out")
    if site is None:
        raise HubError(
            "give the folder of a site", where="--space", hint="`pythia-quant web ARTIFACT --out DIR` makes one"
        )


def write_card(plan: Plan[Shipment], path: Path) -> None:
    """Write the card of a plan to a file."""
    from pythia_quant.core.files import replace_file, target_lock

    with target_lock(path):
        replace_file(path, plan.publication.card)


def show_plans(plans: Sequence[Plan[Shipment]], card_out: Path | None, *, with_card: bool) -> None:
    """Print plans, before them the card of a single one, and where the card was written."""
    if with_card:
        print(plans[0].publication.card)
    for plan in plans:
        show_plan(plan, out_console)
    if card_out is not None:
        out_console.print(f"The card is in {escape(str(card_out))}.", soft_wrap=True)


def _check_options(repo_id: str, card_out: Path | None, artifacts: int, *, asks: bool, as_json: bool) -> None:
    if card_out is not None and artifacts > 1:
        raise HubError("takes one artifact", where="--card-out", hint="leave out --all, and name one")
    if not repo_id:
        raise HubError("is not given", where="--repo-id", hint="give one such as me/pythia-160m-gptq-int4")
    hint = "add --yes, or --dry-run to see the plan"
    if asks and as_json:
        raise HubError("asks no question", where="--json", hint=hint)
    if asks and not sys.stdin.isatty():
        raise HubError("there is no terminal to ask on", where="publish", hint=hint)


def _plans(
    folders: list[Path], prepare: Callable[[Path], Publication], *, private: bool, without_hub: bool
) -> list[Plan[Publication]]:
    """Check all artifacts, then compare each with its repository."""
    from pythia_quant.core.progress import Steps
    from pythia_quant.publishing.plan import make_plan
    from pythia_quant.publishing.publication import check_distinct

    publications, plans = [], []
    with Steps(2 * len(folders), progress_console) as steps:
        for folder in folders:
            with steps.step(f"checking {folder.name}"):
                publications.append(prepare(folder))
        check_distinct(publications)
        for publication in publications:
            with steps.step(f"comparing with {publication.target.repo_id}"):
                plans.append(make_plan(publication, private=private, without_hub=without_hub))
    return plans


def upload_plans(plans: Sequence[Plan[Shipment]], *, private: bool, told: Callable[[int, Published], object]) -> None:
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


def show_published(plan: Plan[Shipment], published: Published) -> None:
    """Print where a plan was published."""
    what = f"{published.uploaded} files, read back and compared" if published.uploaded else "was there already"
    out_console.print(f"[bold]{escape(plan.where)}[/]: {what}: {escape(published.url)}", soft_wrap=True)


def _folders(artifact: Path | None, everything: Path | None) -> list[Path]:
    if (artifact is None) == (everything is None):
        raise HubError("give one artifact, or --all DIR", where="publish")
    if artifact is not None:
        return [artifact]
    assert everything is not None  # noqa: S101 - one of the two is given
    from pythia_quant.artifacts.artifact import artifacts_below

    return artifacts_below(everything)


def _plan_data(plan: Plan[Publication]) -> dict[str, object]:
    """Return what JSON says of a plan; the commit `head` is None if there is none, or if the hub was not asked."""
    publication = plan.publication
    despite = {"unknown": publication.unknown, "despite": publication.despite}
    return artifact_data(publication.artifact) | plan_data(plan) | despite


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
