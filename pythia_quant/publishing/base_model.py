"""The repository of an artifact's source: as the manifest says, or one that the user names and that has its weights."""

from __future__ import annotations

from huggingface_hub import constants

from pythia_quant.core.errors import HubError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.hub_client import check_name
from pythia_quant.core.hub_files import NotCachedError, RemoteFile, Tree, fetch, read_tree
from pythia_quant.model.source_name import DEMO
from pythia_quant.records.manifest import Manifest, SourceRecord

NONE = "none"
"""The name that a user gives if no repository has the source's weights."""
CARD = "README.md"


def base_model(manifest: Manifest, name: str | None) -> SourceRecord | None:
    """Return the record of the hub's repository for a source that was a folder.

    Args:
        manifest: the artifact's manifest.
        name: ``owner/name``, ``owner/name@revision`` or ``none``, if the source was a folder; else None.

    Returns:
        The record; None if the manifest already has it, or if no repository has the source's weights.

    Raises:
        HubError: `name` is missing or not needed, or the repository has other weights than those that were quantized.
    """
    source = manifest.source
    if source.commit or source.model == DEMO:
        if name:
            raise HubError("the manifest says what the source was", where="--base-model", hint="leave it out")
        return None
    if name is None:
        raise HubError(
            f"was made from a folder, {source.model}",
            where=manifest.variant,
            hint="--base-model OWNER/NAME[@REVISION] says what it holds, which is compared; or --base-model none",
        )
    if name == NONE:
        return None
    repo_id, _, revision = name.partition("@")
    revision = revision or "main"
    check_name(repo_id, "--base-model")
    tree = read_tree(repo_id, revision)
    _compare(tree, source.sha256, repo_id, name)
    return source.model_copy(update={"model": repo_id, "revision": revision, "commit": tree.commit})


def _compare(tree: Tree, weights: dict[str, str], repo_id: str, repository: str) -> None:
    for name, digest in weights.items():
        file = tree.files.get(name)
        if file is None or _digest(file, repo_id, name, tree.commit) != digest:
            what = "is not there" if file is None else "has other content"
            raise HubError(
                f"{name}, from which this was made, {what}",
                where=f"{repository}, commit {tree.commit[:12]}",
                hint="name the repository and revision whose weights were quantized, or --base-model none",
            )


def _digest(file: RemoteFile, repo_id: str, name: str, commit: str) -> str | None:
    if file.sha256:
        return file.sha256
    path = fetch(repo_id, name, commit)  # a small file, for which the hub has only the git hash
    return sha256(path) if path else None


def original_card(source: SourceRecord) -> str | None:
    """Return the card of a source at its commit, or on ``main`` if there is none at the commit.

    Returns:
        The card as Markdown; None if the source is on no hub, or has no card.

    Raises:
        NotCachedError: the cache does not have the card, and the hub cannot be reached or must not be asked.
        SourceError: the hub refuses.
    """
    if source.commit is None:
        return None
    path = fetch(source.model, CARD, source.commit) or fetch(source.model, CARD, "main")
    if path is None and constants.HF_HUB_OFFLINE:  # the repository may have a card
        raise NotCachedError(f"{CARD} is not in the cache", where=source.model, hint="unset HF_HUB_OFFLINE")
    return path.read_text(encoding="utf-8", errors="replace") if path else None
