"""One file of a hub repository, through huggingface_hub and its cache, with errors a user can act on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils.tqdm import tqdm

from pythia_quant.errors import SourceError

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
        SourceError: no such repository or revision, no access, or no connection and nothing cached.
    """
    where = f"{repo_id}@{revision}"
    try:
        path = huggingface_hub.hf_hub_download(
            repo_id, file, revision=revision, repo_type=repo_type, tqdm_class=_told(file, progress)
        )
        return Path(path)
    except hub_errors.GatedRepoError as error:
        raise SourceError(
            "access to this repository is restricted",
            where=where,
            hint="ask for access on its page, then log in with: hf auth login",
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"the hub has no such {repo_type} repository, or it is private",
            where=where,
            hint="check the name; for a private one, log in with: hf auth login",
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise SourceError("the repository has no such revision", where=where) from error
    except hub_errors.LocalEntryNotFoundError as error:  # before EntryNotFoundError, of which it is a kind
        if huggingface_hub.constants.HF_HUB_OFFLINE and _is_cached(repo_id, revision):
            return None  # offline, a repository has what its cached snapshot has
        raise SourceError(
            f"{file} is not in the cache and the hub cannot be reached",
            where=where,
            hint="check the connection, HF_ENDPOINT and HF_HUB_OFFLINE",
        ) from error
    except hub_errors.EntryNotFoundError:
        return None
    except (hub_errors.HfHubHTTPError, hub_errors.OfflineModeIsEnabled, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        what = f"the hub answered {status}" if status else f"the download failed ({type(error).__name__})"
        raise SourceError(f"{what} for {file}", where=where, hint="try again later") from error
    except hub_errors.HFValidationError as error:
        raise SourceError("is neither a folder here nor the name of a hub repository", where=repo_id) from error


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
    parts = cached.parts
    return parts[parts.index("snapshots") + 1]


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_download(cached: Path, digest: str) -> None:
    """Compare a cached file with the hash the hub announced: the client itself checks only the size.

    Large files lie in the cache under their SHA-256; others under a git hash, which says nothing here.

    Raises:
        SourceError: the content is not what the hub announced.
    """
    announced = cached.resolve().name
    if len(announced) == len(digest) and announced != digest:
        raise SourceError(
            f"its content has sha256 {digest[:12]}…, the hub announced {announced[:12]}…",
            where=str(cached),
            hint="the download is damaged: delete the file and run again",
        )
