"""pythia-quant publish --space: put a site on a hub as a static Space."""

from __future__ import annotations

from pathlib import Path

from pythia_quant.cli.publish_steps import carry_out, plan_data
from pythia_quant.core.console import progress_console

# ruff: noqa: PLC0415 - --help answers at once


def publish_space(
    site: Path, repo_id: str, *, private: bool, card_out: Path | None, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Check a site, show the plan, ask, and upload it in one commit.

    Args:
        site: a folder that `pythia-quant web` wrote.
        repo_id: the Space, ``owner/name``.
        private: whether the Space is private; one that is there and public is then refused.
        card_out: where to write the card; nothing is published then.
        dry_run: whether only the plan is shown.
        yes: whether not to ask.
        as_json: whether to print the plan as JSON.

    Raises:
        ArgumentError: the folder is no site of ours, or is damaged.
        HubError: the hub refuses, or holds something else.
    """
    from pythia_quant.core.progress import Steps
    from pythia_quant.publishing.plan import make_plan
    from pythia_quant.web.space import prepare_space

    with Steps(2, progress_console) as steps:
        with steps.step(f"checking {site.name}"):
            publication = prepare_space(site, repo_id)
        with steps.step(f"comparing with {repo_id}"):
            plan = make_plan(publication, private=private, without_hub=dry_run or card_out is not None)
    data = [plan_data(plan) | {"folder": str(site), "models": publication.names}] if as_json else None
    carry_out([plan], data, private=private, card_out=card_out, dry_run=dry_run, yes=yes)
