"""The files of a hub repository: listed by size and hash, fetched one by one."""

from __future__ import annotations

import builtins
import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import tqdm

from pythia_quant.core.errors import HubError, PythiaQuantError, SourceError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.foreign_files import COMMIT, MOST_BYTES, own_file, snapshot_of
from pythia_quant.core.hub_answers import byte_count, commit_id, git_id, sha256_digest, text
from pythia_quant.core.hub_client import api, ask, explained, prepare, status_of
from pythia_quant.core.progress import SILENT, Progress

_SHA1, _SHA256 = 40, 64
"""Digits of a hash."""

_SMALL = 64_000_000
"""Files up to so many bytes are hashed by :func:`fetch`; larger ones where they are hashed anyway."""


def fetch(
    repo_id: str,
    file: str,
    revision: str,
    repo_type: str = "model",
    progress: Progress = SILENT,
    size: int | None = None,
) -> Path | None:
    """Download a file unless it is cached, and return its path; None when the repository does not have it.

    HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the cache folder are honoured by huggingface_hub itself.

    Args:
        repo_id: the repository.
        file: its path there.
        revision: branch, tag or commit.
        repo_type: ``model`` or ``dataset``.
        progress: is told how much of it has come.
        size: in bytes, where it is known; a download of another size is broken off.

    Raises:
        SourceError: no such repository or revision, no access, no connection and nothing cached, or a damaged download.
        HubError: the hub's answer is not to be trusted.
    """
    where = f"{'' if repo_type == 'model' else f'{repo_type} '}{repo_id}@{revision}"
    prepare()
    failure: PythiaQuantError
    try:
        path = Path(
            huggingface_hub.hf_hub_download(
                repo_id, file, revision=revision, repo_type=repo_type, tqdm_class=_download_bar(file, progress, size)
            )
        )
    except hub_errors.LocalEntryNotFoundError as error:  # before EntryNotFoundError, of which it is a kind
        if huggingface_hub.constants.HF_HUB_OFFLINE and _is_cached(repo_id, revision):
            return None  # offline, a repository has what its cached snapshot has
        failure = explained(error, where)
        if status_of(error) is None:
            failure = SourceError(
                f"{file} is not in the cache and the hub cannot be reached",
                where=where,
                hint="check the connection, HF_ENDPOINT and HF_HUB_OFFLINE",
            )
    except hub_errors.EntryNotFoundError:
        return None
    except hub_errors.HFValidationError:
        failure = SourceError("is neither a folder here nor the name of a hub repository", where=repo_id)
    except PythiaQuantError:
        raise
    except Exception as error:  # the client stumbles over answers that are not what it takes them for
        failure = explained(error, where)
    else:
        own_file(path.parents[file.count("/")], file, SourceError)  # the client trusts whatever the cache links to
        if COMMIT.fullmatch(revision) and commit_of(path) != revision:
            raise SourceError(f"the hub gave {file} of another commit, {commit_of(path)}", where=where)
        if path.stat().st_size <= _SMALL:
            check_download(path)
        return path
    # Not from the error: its addresses may be presigned.
    raise SourceError(failure.what, where=failure.where, hint=failure.hint)


def file_names(repo_id: str, commit: str) -> frozenset[str] | None:
    """Return the names of all files that a model's repository has at a commit; None when the hub cannot be asked.

    Asked once: huggingface_hub keeps the list beside the files. Of the call that makes it do so, config.json is the
    smallest that it can be asked for.
    """
    prepare()
    try:
        try:
            found = huggingface_hub.get_cached_repo_tree(repo_id, revision=commit)
        except hub_errors.CachedRepoTreeNotFoundError:
            huggingface_hub.snapshot_download(repo_id, revision=commit, allow_patterns="config.json")
            found = huggingface_hub.get_cached_repo_tree(repo_id, revision=commit)
    except Exception:  # a hub may answer anything: then each file is asked for, and what is wrong is said there
        return None
    return frozenset(file.path for file in found)


def _download_bar(file: str, progress: Progress, size: int | None) -> type[tqdm]:
    """Return a progress bar that draws nothing and takes its steps to `progress` instead.

    It breaks off a download of another size than expected, or of more than was announced: that need not end.
    """

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"disable": True})  # type: ignore[no-untyped-call]
            self._size, self._come = options.get("total") or 0, options.get("initial") or 0
            self._most = (self._size or MOST_BYTES) if size is None else size
            if size is not None and self._size not in (0, size):
                raise _wrong_size(file, f"has {self._size:,} bytes on the hub, {size:,} are expected")

        def update(self, n: float | None = 1) -> None:
            self._come += n or 0
            if self._come > self._most:
                raise _wrong_size(file, f"more than {self._most:,} bytes came")
            come = f"{self._come / 1e6:,.0f} of {self._size / 1e6:,.0f} MB"
            progress.step(f"downloading {file}: {come}", 0, 1)

    return Bar


def _wrong_size(file: str, what: str) -> SourceError:
    hint = "nothing was kept; the file was altered on the hub, or is not what the hub says"
    return SourceError(what, where=file, hint=hint)


def _is_cached(repo_id: str, revision: str) -> bool:
    return isinstance(huggingface_hub.try_to_load_from_cache(repo_id, "config.json", revision=revision), str)


def commit_of(cached: Path) -> str:
    """Return the commit under which a downloaded file lies in the cache (…/snapshots/<commit>/<file>)."""
    snapshot = snapshot_of(cached)
    if snapshot is None:
        raise SourceError("is not in the hub's cache", where=str(cached))
    return snapshot.name


def git_hash(content: bytes) -> str:
    """Return the hash that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def forget(cached: Path) -> None:
    """Remove a downloaded file from the hub's cache, which would give it again.

    Raises:
        SourceError: it is not there, but somewhere that the cache links to.
    """
    snapshot = snapshot_of(cached)
    if snapshot and own_file(snapshot, cached.relative_to(snapshot).as_posix(), SourceError):
        cached.resolve().unlink()


def check_download(cached: Path, digest: str | None = None) -> None:
    """Compare a cached file with the hash under which it lies in the cache: the client itself checks only the size.

    Args:
        cached: large files lie there under their SHA-256, others under the hash that git gives them.
        digest: its SHA-256, where it is known.

    Raises:
        SourceError: the content is not what the hub announced. The file is removed from the cache.
    """
    path = cached.resolve()
    announced = path.name
    if len(announced) == _SHA256:
        found = digest or sha256_if_changed(path)
    elif len(announced) == _SHA1 and digest is None:
        found = git_hash(path.read_bytes())
    else:
        return
    if found != announced:
        forget(cached)
        raise SourceError(
            f"its content has the hash {found[:12]}…, the hub announced {announced[:12]}…",
            where=cached.name,
            hint="the download is damaged and was removed: run again",
        )


_MOST_FILES = 1_000_000  # a listing in pages need not end


@dataclass(frozen=True)
class Content:
    """The intended content of a file in a repository: a local file, or bytes."""

    data: Path | bytes
    bytes: int
    sha256: str

    @classmethod
    def from_bytes(cls, data: builtins.bytes) -> Content:
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
