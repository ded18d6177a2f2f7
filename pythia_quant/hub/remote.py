"""What a repository holds: its files by size and hash, without downloading them."""

from __future__ import annotations

import builtins
import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from huggingface_hub.hf_api import RepoFile

from pythia_quant.errors import HubError
from pythia_quant.hub_answers import byte_count, commit_id, git_id, sha256_digest, text
from pythia_quant.hub_client import api, ask
from pythia_quant.hub_files import git_hash

_MOST_FILES = 1_000_000  # a listing in pages need not end


@dataclass(frozen=True)
class Content:
    """The intended content of a file in a repository: a local file, or bytes."""

    data: Path | bytes
    bytes: int
    sha256: str

    @classmethod
    def of(cls, data: builtins.bytes) -> Content:
        """Return bytes as content."""
        return cls(data, len(data), hashlib.sha256(data).hexdigest())

    @cached_property
    def git(self) -> str:
        """The hash that git gives it.

        Raises:
            HubError: the file is no longer what it was when its SHA-256 was taken.
        """
        data = self.data if isinstance(self.data, bytes) else self.data.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise HubError("was changed while it was published", where=str(self.data), hint="run again")
        return git_hash(data)


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository.

    Attributes:
        bytes: its size.
        git: the git hash of a small file; of a large one, that of the pointer to it, which says nothing of its content.
        sha256: of a large file's content; None for a small one.
    """

    bytes: int
    git: str
    sha256: str | None

    def holds(self, content: Content) -> bool:
        """Say whether its size and hash are those of `content`."""
        same = self.sha256 == content.sha256 if self.sha256 else self.git == content.git
        return self.bytes == content.bytes and same


@dataclass(frozen=True)
class Tree:
    """The files of a repository at a commit."""

    commit: str
    files: dict[str, RemoteFile]


def read_tree(repo_id: str, revision: str = "main") -> Tree:
    """Return the files of a model repository at a revision.

    Raises:
        NoRepositoryError, NoRevisionError: there is none.
        HubError: the hub cannot be asked.
    """
    commit = head(repo_id, revision)
    return Tree(commit, files_at(repo_id, commit, f"{repo_id}@{revision}"))


def files_at(repo_id: str, commit: str, where: str) -> dict[str, RemoteFile]:
    """Return the files of a model repository at a commit, in one request; for what is raised see :func:`read_tree`."""

    def listed() -> dict[str, RemoteFile]:
        items = api().list_repo_tree(repo_id, revision=commit, recursive=True)
        return {text(item.path): _remote(item) for item in islice(items, _MOST_FILES) if isinstance(item, RepoFile)}

    return ask(listed, where)


def _remote(item: RepoFile) -> RemoteFile:
    digest = None if item.lfs is None else sha256_digest(item.lfs.sha256)
    return RemoteFile(byte_count(item.size), git_id(item.blob_id), digest)


def head(repo_id: str, revision: str = "main") -> str:
    """Return the commit at a revision; see :func:`read_tree` for what is raised."""

    def read_commit() -> str | None:
        sha = api().repo_info(repo_id, revision=revision).sha
        return commit_id(sha) if sha else None

    commit = ask(read_commit, f"{repo_id}@{revision}")
    if commit is None:
        raise HubError("has no commit", where=f"{repo_id}@{revision}", hint="is it an empty repository?")
    return commit
