"""pythia-quant publish: put artifacts on a hub."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pythia_quant.cli.completion import complete_artifact
from pythia_quant.cli.options import AsJson
from pythia_quant.cli.outcomes import artifact_data
from pythia_quant.cli.publish_steps import carry_out, plan_data
from pythia_quant.core.console import EVERY_VARIABLE, example, progress_console
from pythia_quant.core.errors import HubError

if TYPE_CHECKING:
    from pythia_quant.publishing.plan import Plan
    from pythia_quant.publishing.publication import Publication

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
        site = _checked_site(given, artifact, revision, space=space, private=private, public=public)
        _check_options(repo_id, card_out, 1, asks=not (yes or dry_run or card_out), as_json=as_json)
        publish_space(site, repo_id, private=not public, card_out=card_out, dry_run=dry_run, yes=yes, as_json=as_json)
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
    data = [_plan_data(plan) for plan in plans] if as_json else None
    carry_out(plans, data, private=private, card_out=card_out, dry_run=dry_run, yes=yes)


def _checked_site(
    given: Mapping[str, object], site: Path | None, revision: str, *, space: bool, private: bool, public: bool
) -> Path:
    """Return the folder of a site, if all options suit a Space; `given` has those that do not, by their names."""
    if not space:
        raise HubError("goes with --space", where="--public", hint="artifacts are public unless --private is given")
    if private and public:
        raise HubError("say one of the two", where="--private --public")
    if unfit := [name for name, value in given.items() if value] + (["--revision"] if revision != "main" else []):
        raise HubError("does not go with --space", where=unfit[0], hint="leave it out")
    if site is None:
        hint = "`pythia-quant web ARTIFACT --out DIR` makes one"
        raise HubError("give the folder of a site", where="--space", hint=hint)
    return site


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
