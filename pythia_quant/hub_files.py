"""One file of a hub repository, through huggingface_hub and its cache, with errors a user can act on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils.tqdm import tqdm

from pythia_quant.errors import PythiaQuantError, SourceError
from pythia_quant.hub_client import FAILURES, explained, prepare, status_of

_SHA1, _SHA256 = 40, 64
"""Digits of a hash."""
_SMALL = 64_000_000
"""Files up to so many bytes are hashed by :func:`fetch`; larger ones where they are hashed anyway."""

Tell = Callable[[str], None]
"""Called with a sentence for the user."""


def say_nothing(_: str) -> None:
    """Tell the user nothing."""


def fetch(
    repo_id: str, file: str, revision: str, repo_type: str = "model", progress: Tell = say_nothing
) -> Path | None:
    """Download a file unless it is cached, and return its path; None when the repository does not have it.

    `progress` is told how much of it has come. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the cache folder are honoured
    by huggingface_hub itself.

    Raises:
        SourceError: no such repository or revision, no access, no connection and nothing cached, or a damaged download.
    """
    where = f"{'' if repo_type == 'model' else f'{repo_type} '}{repo_id}@{revision}"
    prepare()
    failure: PythiaQuantError
    try:
        path = Path(
            huggingface_hub.hf_hub_download(
                repo_id, file, revision=revision, repo_type=repo_type, tqdm_class=_told(file, progress)
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
    except FAILURES as error:
        failure = explained(error, where)
    else:
        if path.stat().st_size <= _SMALL:
            check_download(path)
        return path
    # Not from the error: its addresses may be presigned.
    raise SourceError(failure.what, where=failure.where, hint=failure.hint)


def _told(file: str, progress: Tell) -> type[tqdm]:
    """Return a progress bar that draws nothing and tells `progress` instead."""

    class Told(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"disable": True})  # type: ignore[no-untyped-call]
            self._size, self._come = options.get("total") or 0, options.get("initial") or 0

        def update(self, n: float | None = 1) -> None:
            self._come += n or 0
            progress(f"downloading {file}: {self._come / 1e6:,.0f} of {self._size / 1e6:,.0f} MB")

    return Told


def _is_cached(repo_id: str, revision: str) -> bool:
    return isinstance(huggingface_hub.try_to_load_from_cache(repo_id, "config.json", revision=revision), str)


def commit_of(cached: Path) -> str:
    """Return the commit under which a downloaded file lies in the cache (…/snapshots/<commit>/<file>)."""
    _repository, _snapshots, commit, *_ = cached.relative_to(huggingface_hub.constants.HF_HUB_CACHE).parts
    return commit


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_hash(content: bytes) -> str:
    """Return the hash that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


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
        found = digest or sha256(path)
    elif len(announced) == _SHA1 and digest is None:
        found = git_hash(path.read_bytes())
    else:
        return
    if found != announced:
        path.unlink()
        raise SourceError(
            f"its content has the hash {found[:12]}…, the hub announced {announced[:12]}…",
            where=cached.name,
            hint="the download is damaged and was removed: run again",
        )
