"""Fetch files of a hub's repository one by one, and list its files with their sizes and hashes."""

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
from pythia_quant.core.hub_client import NoAnswerError, api, ask, explained, prepare, status_of
from pythia_quant.core.progress import SILENT, Progress


class NotCachedError(SourceError):
    """A file is not in the hub's cache, and the hub cannot be asked for it."""


_SHA1, _SHA256 = 40, 64
"""The hexadecimal digits of a hash."""

_SMALL = 64_000_000
"""The most bytes of a file that :func:`fetch` hashes. Callers hash larger files for their records."""


def fetch(
    repo_id: str,
    file: str,
    revision: str,
    repo_type: str = "model",
    progress: Progress = SILENT,
    size: int | None = None,
) -> Path | None:
    """Return the path of a file in the hub's cache, downloaded if needed; None if the repository does not have it.

    huggingface_hub itself reads HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the variables of the cache's folder.

    Args:
        repo_id: the repository, ``owner/name``.
        file: the file's path in the repository.
        revision: a branch, tag or commit.
        repo_type: ``model`` or ``dataset``.
        progress: receives how much of the file is downloaded.
        size: the size of the file, bytes, if it is known. A download of another size is stopped.

    Raises:
        NotCachedError: the file is not in the cache, and the hub cannot be reached or must not be asked.
        SourceError: there is no such repository or revision, no access, or the download is damaged.
        HubError: the hub's answer makes no sense.
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
    except hub_errors.LocalEntryNotFoundError as error:  # before its base class, EntryNotFoundError
        if huggingface_hub.constants.HF_HUB_OFFLINE and is_cached(repo_id, "config.json", revision):
            return None  # offline, a repository has the files of its cached snapshot
        failure = explained(error, where)
        if status_of(error) is None:
            hint = "check the connection, HF_ENDPOINT and HF_HUB_OFFLINE"
            what = f"{file} is not in the cache and the hub cannot be reached"
            failure = NotCachedError(what, where=where, hint=hint)
    except hub_errors.EntryNotFoundError:
        return None
    except hub_errors.HFValidationError:
        failure = SourceError("is neither a folder here nor the name of a hub repository", where=repo_id)
    except PythiaQuantError:
        raise
    except Exception as error:  # the client raises many kinds on answers that it does not expect
        failure = explained(error, where)
    else:
        own_file(path.parents[file.count("/")], file, SourceError)  # the client trusts every link in the cache
        if COMMIT.fullmatch(revision) and commit_of(path) != revision:
            raise SourceError(f"the hub gave {file} of another commit, {commit_of(path)}", where=where)
        if path.stat().st_size <= _SMALL:
            check_download(path)
        return path
    # Without the client's error as its cause, because that may contain presigned addresses.
    kind = NotCachedError if isinstance(failure, NotCachedError | NoAnswerError) else SourceError
    raise kind(failure.what, where=failure.where, hint=failure.hint)


def file_sizes(repo_id: str, commit: str) -> dict[str, int] | None:
    """Return the bytes of every file of a model's repository at a commit, by name; None if the hub cannot be asked.

    The hub is asked once for each commit, because huggingface_hub caches the list. It does so only in a call that
    downloads files; config.json is a small one.
    """
    prepare()
    try:
        try:
            files = huggingface_hub.get_cached_repo_tree(repo_id, revision=commit)
        except hub_errors.CachedRepoTreeNotFoundError:
            huggingface_hub.snapshot_download(repo_id, revision=commit, allow_patterns="config.json")
            files = huggingface_hub.get_cached_repo_tree(repo_id, revision=commit)
        sizes = {text(file.path): byte_count(file.size) for file in files}
    except Exception:  # a hub may answer anything; callers then fetch each file, which raises a clear error
        return None
    return sizes


def _download_bar(file: str, progress: Progress, size: int | None) -> type[tqdm]:
    """Return a class of progress bars that report to `progress` and draw nothing.

    A bar stops a download of another size than `size`, or of more bytes than were announced, which might never end.
    """

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"disable": True})  # type: ignore[no-untyped-call]
            self._size, self._bytes = options.get("total") or 0, options.get("initial") or 0
            self._most = (self._size or MOST_BYTES) if size is None else size
            if size is not None and self._size not in (0, size):
                raise _wrong_size(file, f"has {self._size:,} bytes on the hub, {size:,} are expected")

        def update(self, n: float | None = 1) -> None:
            self._bytes += n or 0
            if self._bytes > self._most:
                raise _wrong_size(file, f"more than {self._most:,} bytes came")
            amount = f"{self._bytes / 1e6:,.0f} of {self._size / 1e6:,.0f} MB"
            progress.step(f"downloading {file}: {amount}", 0, 1)

    return Bar


def _wrong_size(file: str, what: str) -> SourceError:
    hint = "nothing was kept; the file was altered on the hub, or is not what the hub says"
    return SourceError(what, where=file, hint=hint)


def is_cached(repo_id: str, file: str, revision: str) -> bool:
    """Return whether a file of a model's repository is in the hub's cache."""
    return isinstance(huggingface_hub.try_to_load_from_cache(repo_id, file, revision=revision), str)


def commit_of(cached: Path) -> str:
    """Return the commit of a file in the hub's cache, which is part of its path (…/snapshots/<commit>/<file>).

    Raises:
        SourceError: the path is not in the hub's cache.
    """
    snapshot = snapshot_of(cached)
    if snapshot is None:
        raise SourceError("is not in the hub's cache", where=str(cached))
    return snapshot.name


def git_hash(content: bytes) -> str:
    """Return the hexadecimal SHA-1 that git computes for a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def forget(cached: Path) -> None:
    """Remove a file from the hub's cache, so that the next call downloads it again.

    Raises:
        SourceError: the cache has a link to a file elsewhere.
    """
    snapshot = snapshot_of(cached)
    if snapshot and own_file(snapshot, cached.relative_to(snapshot).as_posix(), SourceError):
        cached.resolve().unlink()


def check_download(cached: Path, digest: str | None = None) -> None:
    """Compare a cached file with the hash that the hub announced. The client itself checks only the size.

    Args:
        cached: the path of the file in the cache. It is a link to a file whose name is the hash: the SHA-256 of a large
            file, git's hash of another.
        digest: the SHA-256 of the content, if it is known.

    Raises:
        SourceError: the content has another hash. The file is then removed from the cache.
    """
    path = cached.resolve()
    announced = path.name
    if len(announced) == _SHA256:
        computed = digest or sha256_if_changed(path)
    elif len(announced) == _SHA1 and digest is None:
        computed = git_hash(path.read_bytes())
    else:
        return
    if computed != announced:
        forget(cached)
        raise SourceError(
            f"its content has the hash {computed[:12]}…, the hub announced {announced[:12]}…",
            where=cached.name,
            hint="the download is damaged and was removed: run again",
        )


_MOST_FILES = 1_000_000  # a list in pages might never end


@dataclass(frozen=True)
class Content:
    """The content that a file of a repository will have.

    Attributes:
        data: the path of a local file, or the bytes.
        bytes: the size.
        sha256: the hexadecimal SHA-256.
    """

    data: Path | bytes
    bytes: int
    sha256: str

    @classmethod
    def from_bytes(cls, data: builtins.bytes) -> Content:
        """Return content that consists of bytes in memory."""
        return cls(data, len(data), hashlib.sha256(data).hexdigest())

    @cached_property
    def git(self) -> str:
        """The hash that git computes for a file of this content.

        Raises:
            HubError: the local file has changed since its SHA-256 was computed.
        """
        data = self.data if isinstance(self.data, bytes) else self.data.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise HubError("was changed while it was published", where=str(self.data), hint="run again")
        return git_hash(data)


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository.

    Attributes:
        bytes: the size of the file.
        git: git's hash of a small file. For a large file, it is the hash of git's pointer to the file.
        sha256: the SHA-256 of a large file; None for a small one.
    """

    bytes: int
    git: str
    sha256: str | None

    def holds(self, content: Content) -> bool:
        """Return whether the file has the size and the hash of `content`."""
        same = self.sha256 == content.sha256 if self.sha256 else self.git == content.git
        return self.bytes == content.bytes and same


@dataclass(frozen=True)
class Tree:
    """The files of a repository at a commit, by their paths."""

    commit: str
    files: dict[str, RemoteFile]


def read_tree(repo_id: str, revision: str = "main", repo_type: str = "model") -> Tree:
    """Return the files of a repository, by default a model's, at a revision.

    Raises:
        NoRepositoryError: the repository does not exist.
        NoRevisionError: the revision does not exist.
        HubError: the hub cannot be asked, or its answer makes no sense.
    """
    commit = head(repo_id, revision, repo_type)
    return Tree(commit, files_at(repo_id, commit, f"{repo_id}@{revision}", repo_type))


def files_at(repo_id: str, commit: str, where: str, repo_type: str = "model") -> dict[str, RemoteFile]:
    """Return the files of a repository at a commit, by path. One request asks for all of them.

    `where` names the repository in errors, which are those of :func:`read_tree`.
    """

    def list_files() -> dict[str, RemoteFile]:
        items = api().list_repo_tree(repo_id, revision=commit, recursive=True, repo_type=repo_type)
        return {text(item.path): _remote(item) for item in islice(items, _MOST_FILES) if isinstance(item, RepoFile)}

    return ask(list_files, where)


def _remote(item: RepoFile) -> RemoteFile:
    digest = None if item.lfs is None else sha256_digest(item.lfs.sha256)
    return RemoteFile(byte_count(item.size), git_id(item.blob_id), digest)


def head(repo_id: str, revision: str = "main", repo_type: str = "model") -> str:
    """Return the commit of a repository's revision; for the errors see :func:`read_tree`."""

    def read_commit() -> str | None:
        sha = api().repo_info(repo_id, revision=revision, repo_type=repo_type).sha
        return commit_id(sha) if sha else None

    commit = ask(read_commit, f"{repo_id}@{revision}")
    if commit is None:
        raise HubError("has no commit", where=f"{repo_id}@{revision}", hint="is it an empty repository?")
    return commit
