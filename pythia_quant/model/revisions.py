"""The revisions of a model on a hub and the hashes of their weights, from the hub's own records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from pythia_quant.core.errors import HubError, PythiaQuantError, SourceError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.hub_answers import commit_id, text
from pythia_quant.core.hub_client import api, ask
from pythia_quant.core.hub_files import RemoteFile, fetch, files_at, read_tree
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.model import suite
from pythia_quant.model.suite import parse_revisions

MAIN = "main"
_THREADS = 8
_NAME = re.compile(
    r"(?:(?P<safetensors>model)|pytorch_model)(?:-\d+-of-(?P<of>\d+))?\.(?(safetensors)safetensors|bin)", re.ASCII
)


@dataclass(frozen=True)
class WeightFile:
    """A file of weights: its size, and its SHA-256 as the hub records it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Revision:
    """A branch at the commit it points to.

    Attributes:
        name: of the branch.
        commit: its hash.
        files: the weights, all there are.
        problem: why they could not be read; empty when they were.
    """

    name: str
    commit: str
    files: tuple[WeightFile, ...]
    problem: str = ""

    def models(self) -> dict[str, dict[str, str]]:
        """Return the SHA-256 of each file, by name, of each complete model: `safetensors`, `pickle`, or both."""
        sets: dict[tuple[str, str | None], dict[str, str]] = {}
        for file in self.files:
            parts = _NAME.fullmatch(file.name)
            if parts is not None:
                kind = "safetensors" if parts["safetensors"] else "pickle"
                sets.setdefault((kind, parts["of"]), {})[file.name] = file.sha256
        complete = {key: files for key, files in sets.items() if key[1] is None or len(files) == int(key[1])}
        # Where there is one file it is read, and no shards.
        return {kind: complete.get((kind, None), files) for (kind, _), files in sorted(complete.items(), key=str)}


@dataclass(frozen=True)
class Listing:
    """Steps of a model on a hub.

    Attributes:
        model: the repository.
        published: every step the suite has of it, or the hub has a branch of.
        revisions: main and the steps asked for, those that are on the hub.
        missing: steps asked for that the suite has and the hub has no branch of.
    """

    model: str
    published: tuple[int, ...]
    revisions: tuple[Revision, ...]
    missing: tuple[str, ...]

    @property
    def last(self) -> str:
        """The last step, which main is to equal."""
        return f"step{self.published[-1]}"


def read_main(repo_id: str) -> Revision:
    """Return main with its weights.

    Raises:
        HubError: there is no such repository, or the hub cannot be asked.
        SourceError: a small file had to be downloaded to be hashed, and could not be.
    """
    tree = read_tree(repo_id, MAIN)
    return Revision(MAIN, tree.commit, tuple(_weights(repo_id, tree.commit, tree.files)))


def read_steps(repo_id: str, steps: str, progress: Progress = SILENT) -> Listing:
    """Return main and the steps of a model with the hashes of their weights; a step that cannot be read says why.

    One request lists the branches, one more each the files. Only weights that the hub keeps in git itself, whose
    SHA-256 it does not tell, are downloaded.

    Args:
        repo_id: of the suite or not.
        steps: list or range, see :func:`pythia_quant.model.suite.parse_revisions`.
        progress: told of every revision.

    Raises:
        SourceError: `steps` names none, or one that never was.
        HubError: there is no such repository, or the hub cannot be asked for its branches.
    """

    def list_branches() -> dict[str, str]:
        refs = api().list_repo_refs(repo_id).branches
        return {text(branch.name): commit_id(branch.target_commit) for branch in refs}

    branches = ask(list_branches, repo_id)
    member = suite.find(repo_id)
    suite_steps = member.steps if member else ()
    published = tuple(sorted({*suite_steps, *(step for name in branches if (step := suite.step_of(name)) is not None)}))
    if not published:
        raise HubError("has no branches step<N>", where=repo_id, hint="leave out --steps to see what main holds")
    names_to_read = parse_revisions(steps, published)
    for name in names_to_read:
        if suite.step_of(name) is None:
            raise SourceError(f"{name!r} is no step", where="--steps", hint="give step1000..step3000, or all")
    names = [name for name in dict.fromkeys((MAIN, *names_to_read)) if name in branches]
    read: dict[str, Revision] = {}
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for done in as_completed([pool.submit(_read, repo_id, name, branches[name]) for name in names]):
            progress.step("revision", len(read), len(names))
            read[done.result().name] = done.result()
    finally:
        pool.shutdown(cancel_futures=True)
    missing = tuple(name for name in names_to_read if name not in branches)
    return Listing(repo_id, published, tuple(read[name] for name in names), missing)


def _read(repo_id: str, name: str, commit: str) -> Revision:
    try:
        files = files_at(repo_id, commit, f"{repo_id}@{name}")
        return Revision(name, commit, tuple(_weights(repo_id, commit, files)))
    except PythiaQuantError as error:
        return Revision(name, commit, (), error.what)


def _weights(repo_id: str, commit: str, files: Mapping[str, RemoteFile]) -> Iterator[WeightFile]:
    for name, file in sorted(files.items()):
        if _NAME.fullmatch(name):
            yield WeightFile(name, file.bytes, file.sha256 or _download_and_hash(repo_id, commit, name))


def _download_and_hash(repo_id: str, commit: str, name: str) -> str:
    path = fetch(repo_id, name, commit)
    if path is None:
        raise HubError(f"lists {name} and does not have it", where=f"{repo_id}@{commit}")
    return sha256(path)
