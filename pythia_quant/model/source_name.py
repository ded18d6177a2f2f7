"""Understand the name that a user gives for a model: a folder, a file in it, or a repository of a hub.

Nothing here uses the network.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pythia_quant.core.errors import SourceError, nearest
from pythia_quant.core.text import printable
from pythia_quant.model import suite

SCHEME = "hf://"
"""The beginning of a name on a hub: ``hf://owner/name@revision``, of a checkpoint or an artifact."""

_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co", "huggingface.com"}

# The names that the hub accepts, by huggingface_hub's validate_repo_id.
_PART = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)

_CACHED = "models--"

_IN_A_CHECKPOINT = ("config.json", "adapter_config.json")

_EXAMPLE = "give a folder, or a hub repository such as EleutherAI/pythia-160m"


@dataclass(frozen=True)
class Repository:
    """A repository on the hub; `revision` is the one that the user's name for it contains, or None."""

    repo_id: str
    revision: str | None = None


def parse_model(model: str, revision: str = "main") -> Path | Repository | None:
    """Understand the name of a model.

    Args:
        model: the name that the user gives.
        revision: the revision that the user names; it selects a snapshot in a folder of the hub's cache.

    Returns:
        An existing folder, a repository, or None for the demo model.

    Raises:
        SourceError: the name means neither a folder nor a repository nor the demo model; the hint suggests a name.
    """
    if model == DEMO:
        return None
    if model.startswith("builtin:"):
        raise SourceError("there is no such built-in model", where=printable(model), hint=nearest(model, [DEMO]))
    if "://" in model or model.partition("/")[0].casefold() in _HOSTS:
        return _address(model)
    folder = _folder(model, revision)
    return folder or _repository(model)


def repository_of(model: str) -> str:
    """Return the hub repository that a name means, or the name itself if it means no repository."""
    try:
        place = parse_model(model)
    except SourceError:
        return model
    return place.repo_id if isinstance(place, Repository) else model


def folder_name(folder: Path) -> str:
    """Return a checkpoint folder's name for people; a snapshot in the hub's cache is called as its repository."""
    cached = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cached.startswith(_CACHED):
        return cached.removeprefix(_CACHED)
    return folder.name


def _folder(model: str, revision: str) -> Path | None:
    """Return the checkpoint's folder, whose path or whose file's path is `model`; None if no such path exists."""
    try:
        path = Path(model).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, of an unknown user, with a NUL
        return None
    if not exists or not model.strip():
        return None
    path = path.resolve() if path.is_dir() else Path(os.path.abspath(path))  # noqa: PTH100 - a file may be a link
    if path.is_dir():
        return _snapshot(path, revision)
    if path.is_file() and any((path.parent / name).is_file() for name in _IN_A_CHECKPOINT):
        return _snapshot(path.parent, revision)
    raise SourceError("is no checkpoint", where=str(path), hint="give the folder that holds its config.json")


def _snapshot(folder: Path, revision: str) -> Path:
    """Return the snapshot of a revision in a folder of the hub's cache; return any other folder unchanged."""
    cached = folder.parent if folder.name == "snapshots" else folder
    snapshots = cached / "snapshots"
    if not cached.name.startswith(_CACHED) or not snapshots.is_dir():
        if revision != "main":
            raise SourceError(f"is not a hub repository, so it has no revision {revision!r}", where=str(folder))
        return folder
    commits = sorted(path.name for path in snapshots.iterdir() if path.is_dir())
    reference = cached / "refs" / revision
    commit = revision
    if reference.is_file():
        commit = reference.read_text(errors="replace").strip()
    elif revision == "main" and len(commits) == 1:
        commit = commits[0]
    if commit not in commits:
        raise SourceError(
            f"has no snapshot of the revision {revision!r}",
            where=str(cached),
            hint=f"give one of the folders in {snapshots}: {', '.join(commits) or 'there are none'}",
        )
    return (snapshots / commit).resolve()


def _address(model: str) -> Repository:
    """Return the repository that an address means: the address of its page, of a branch, or of a file."""
    if model.startswith(SCHEME):
        return _repository(model.removeprefix(SCHEME))
    try:
        parts = urlsplit(model if "://" in model else f"https://{model}")
        hosts = _HOSTS | {urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc.casefold()}
    except ValueError:
        parts, hosts = urlsplit(""), set()
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.netloc.casefold() not in hosts:
        raise SourceError("is no address of the hub", where=printable(model), hint=f"download it, or {_EXAMPLE}")
    owner, name, kind, revision, *_ = [*[unquote(part) for part in parts.path.split("/") if part], *[""] * 4]
    repo_id = f"{owner}/{name.removesuffix('.git')}"
    if kind not in ("", "tree", "blob", "resolve", "commit", "commits") or not _is_name(repo_id):
        raise SourceError("is no address of a model on the hub", where=printable(model), hint=_EXAMPLE)
    return Repository(repo_id, revision or None)


def _repository(model: str) -> Repository:
    name, _, revision = model.partition("@")
    name = name.removesuffix("/")
    if _is_name(name) and bool(revision) == ("@" in model):
        return Repository(name, revision or None)
    where = printable(model) or "the model's name"
    if model.startswith((".", "/", "~", "\\")) or name.count("/") > 1:
        raise SourceError("there is no such folder", where=where, hint=_EXAMPLE)
    member = suite.find(f"{suite.ORGANIZATION}/{name}")
    hint = f"did you mean {member.repo_id!r}?" if member else _EXAMPLE
    raise SourceError("is neither a folder here nor the name of a hub repository", where=where, hint=hint)


def _is_name(name: str) -> bool:
    owner, _, rest = name.partition("/")
    return not rest.endswith(".git") and all(_PART.fullmatch(part) for part in (owner, rest))


DEMO = "builtin:demo"
"""The model that ships with the package, as a source's name."""
