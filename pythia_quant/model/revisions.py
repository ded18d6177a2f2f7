"""The revisions of a model on a hub, and the hashes of their weights as the hub records them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
_OTHERS = ("config.json", "tokenizer.json")
_NAME = re.compile(
    r"(?:(?P<safetensors>model)|pytorch_model)(?:-\d+-of-(?P<of>\d+))?\.(?(safetensors)safetensors|bin)", re.ASCII
)


@dataclass(frozen=True)
class WeightFile:
    """A weight file: its name in the repository, its size, and its hex SHA-256 as the hub records it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Revision:
    """A branch of a repository, and the weight files at the commit that it points to.

    Attributes:
        name: the branch's name, such as ``step3000``.
        commit: the commit's hash.
        files: all weight files of the commit; none if the hub's list could not be read.
        problem: why the hub's list of files could not be read; empty if it was read.
        others: name and hash of config.json and tokenizer.json, as git or the hub computes it.
    """

    name: str
    commit: str
    files: tuple[WeightFile, ...]
    problem: str = ""
    others: tuple[tuple[str, str], ...] = ()

    def models(self) -> dict[str, dict[str, str]]:
        """Return the complete models among the files: by `safetensors` or `pickle`, the SHA-256 of each file by name.

        A model is complete when it is one file, or has as many shards as the names of the shards say.
        """
        sets: dict[tuple[str, str | None], dict[str, str]] = {}
        for file in self.files:
            parts = _NAME.fullmatch(file.name)
            if parts is not None:
                kind = "safetensors" if parts["safetensors"] else "pickle"
                sets.setdefault((kind, parts["of"]), {})[file.name] = file.sha256
        complete = {key: files for key, files in sets.items() if key[1] is None or len(files) == int(key[1])}
        # Programs that load a model prefer the one file to shards.
        return {kind: complete.get((kind, None), files) for (kind, _), files in sorted(complete.items(), key=str)}


@dataclass(frozen=True)
class Listing:
    """The training steps that a user asked for, as far as the hub has them.

    Attributes:
        model: the repository.
        published: the number of every step that the suite lists for the model, or that is a branch on the hub.
        revisions: main, and each step asked for that is a branch on the hub.
        missing: the name of each step asked for that is no branch on the hub.
    """

    model: str
    published: tuple[int, ...]
    revisions: tuple[Revision, ...]
    missing: tuple[str, ...]

    @property
    def last(self) -> str:
        """The name of the last step; main should have the same weights."""
        return f"step{self.published[-1]}"


def read_main(repo_id: str) -> Revision:
    """Return the branch main with its weight files.

    Raises:
        HubError: there is no such repository, or the hub cannot be asked.
        SourceError: a file whose SHA-256 the hub does not record could not be downloaded.
    """
    tree = read_tree(repo_id, MAIN)
    return Revision(MAIN, tree.commit, tuple(_weights(repo_id, tree.commit, tree.files)))


def read_steps(repo_id: str, steps: str, progress: Progress = SILENT) -> Listing:
    """Return main and some steps of a model with the hashes of their weights; a step that cannot be read says why.

    One request lists the branches, and one request for each branch lists its files. A weight file is downloaded only if
    the hub keeps it in git, for then the hub does not record its SHA-256.

    Args:
        repo_id: the repository, of the suite or not.
        steps: a list or range of steps, see :func:`pythia_quant.model.suite.parse_revisions`.
        progress: called before each revision.

    Raises:
        SourceError: `steps` cannot be understood, or names a step that was never published.
        HubError: there is no such repository, or the hub cannot be asked for its branches.
    """

    branches = _branches(repo_id)
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
    read = _read_branches(repo_id, {name: branches[name] for name in names}, progress)
    missing = tuple(name for name in names_to_read if name not in branches)
    return Listing(repo_id, published, tuple(read[name] for name in names), missing)


def read_revisions(repo_id: str, names: Sequence[str], progress: Progress = SILENT) -> dict[str, Revision]:
    """Return branches with their weight files, by name, those that exist; one that cannot be read says why.

    Raises:
        HubError: there is no such repository, or the hub cannot be asked for its branches.
    """
    branches = _branches(repo_id)
    return _read_branches(repo_id, {name: branches[name] for name in names if name in branches}, progress)


def branch_steps(repo_id: str) -> list[int]:
    """Return the training steps that are branches of a repository, ascending; see :func:`read_revisions`."""
    return sorted(step for name in _branches(repo_id) if (step := suite.step_of(name)) is not None)


def _branches(repo_id: str) -> dict[str, str]:
    def list_branches() -> dict[str, str]:
        refs = api().list_repo_refs(repo_id).branches
        return {text(branch.name): commit_id(branch.target_commit) for branch in refs}

    return ask(list_branches, repo_id)


def _read_branches(repo_id: str, commits: Mapping[str, str], progress: Progress) -> dict[str, Revision]:
    read: dict[str, Revision] = {}
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for done in as_completed([pool.submit(_read, repo_id, name, commit) for name, commit in commits.items()]):
            progress.step("revision", len(read), len(commits))
            read[done.result().name] = done.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return read


def _read(repo_id: str, name: str, commit: str) -> Revision:
    try:
        files = files_at(repo_id, commit, f"{repo_id}@{name}")
        others = tuple((one, files[one].sha256 or files[one].git) for one in _OTHERS if one in files)
        return Revision(name, commit, tuple(_weights(repo_id, commit, files)), others=others)
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
