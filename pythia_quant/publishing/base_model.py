"""The repository an artifact was made from: known from its manifest, or found to hold the same weights."""

from __future__ import annotations

from huggingface_hub import constants

from pythia_quant.core.errors import HubError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.hub_client import check_name
from pythia_quant.core.hub_files import RemoteFile, Tree, fetch, read_tree
from pythia_quant.model.source_name import DEMO
from pythia_quant.records.manifest import Manifest, SourceRecord

NONE = "none"
"""Says that there is no repository with the source's weights."""
CARD = "README.md"


def base_model(manifest: Manifest, given: str | None) -> SourceRecord | None:
    """Return the hub's record of a source that was a folder; None when the manifest has it, or there is none.

    Args:
        manifest: the artifact's.
        given: ``owner/name``, ``owner/name@revision`` or ``none``; needed only when the source was a folder.

    Raises:
        HubError: it is needed and not given, or the repository does not hold the weights that were quantized.
    """
    source = manifest.source
    if source.commit or source.model == DEMO:
        if given:
            raise HubError("the manifest says what the source was", where="--base-model", hint="leave it out")
        return None
    if given is None:
        raise HubError(
            f"was made from a folder, {source.model}",
            where=manifest.variant,
            hint="--base-model OWNER/NAME[@REVISION] says what it holds, which is compared; or --base-model none",
        )
    if given == NONE:
        return None
    repo_id, _, revision = given.partition("@")
    revision = revision or "main"
    check_name(repo_id, "--base-model")
    tree = read_tree(repo_id, revision)
    _compare(tree, source.sha256, repo_id, given)
    return source.model_copy(update={"model": repo_id, "revision": revision, "commit": tree.commit})


def _compare(tree: Tree, weights: dict[str, str], repo_id: str, given: str) -> None:
    for name, digest in weights.items():
        found = tree.files.get(name)
        if found is None or _digest(found, repo_id, name, tree.commit) != digest:
            what = "is not there" if found is None else "has other content"
            raise HubError(
                f"{name}, from which this was made, {what}",
                where=f"{given}, commit {tree.commit[:12]}",
                hint="name the repository and revision whose weights were quantized, or --base-model none",
            )


def _digest(file: RemoteFile, repo_id: str, name: str, commit: str) -> str | None:
    if file.sha256:
        return file.sha256
    path = fetch(repo_id, name, commit)  # a small one, of which the hub tells only the git hash
    return sha256(path) if path else None


def original_card(source: SourceRecord) -> str | None:
    """Return the card of a hub source as it is at that commit, or, where that revision has none, on ``main``.

    Raises:
        HubError, SourceError: the hub cannot be asked, and it is not cached.
    """
    if source.commit is None:
        return None
    path = fetch(source.model, CARD, source.commit) or fetch(source.model, CARD, "main")
    if path is None and constants.HF_HUB_OFFLINE:  # it may have one
        raise HubError(f"{CARD} is not in the cache", where=source.model, hint="unset HF_HUB_OFFLINE")
    return path.read_text(encoding="utf-8", errors="replace") if path else None
