"""The cache folder: files that can be made or downloaded again, of limited size in all."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from pythia_quant.errors import StorageError

_DIGEST = 64
"""Characters of the SHA-256 that stands before an entry's content."""


def cache_folder(kind: str) -> Path:
    """Return the cache's folder for one kind of file, such as ``texts``.

    It stands in PYTHIA_QUANT_CACHE, or else in ``pythia-quant`` in the user's cache folder.

    Raises:
        StorageError: neither variable is set and the user has no home folder.
    """
    own_cache = os.environ.get("PYTHIA_QUANT_CACHE")
    if own_cache:
        return Path(own_cache) / kind
    user_cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path.home() raises
    if user_cache.startswith("~"):
        raise StorageError(
            "there is no home folder to keep a cache in", hint="name one in PYTHIA_QUANT_CACHE, or set HOME"
        )
    return Path(user_cache) / "pythia-quant" / kind


class Cache:
    """Entries of one kind, each a file named by its key; processes may share them.

    An entry that is damaged, or cannot be read or written, is as good as none: whoever asks makes its content again.

    Args:
        kind: of entries: the name of a folder below the user's cache.
        most_bytes: of all entries together. Above it the entries that were read the longest ago are removed.
    """

    def __init__(self, kind: str, most_bytes: int) -> None:
        self._kind, self._most_bytes = kind, most_bytes

    def read(self, key: str) -> bytes | None:
        """Return the content of an entry; None where there is no such entry, or it is damaged."""
        with suppress(OSError, StorageError):
            path = cache_folder(self._kind) / key
            stored = path.read_bytes()
            digest, content = stored[:_DIGEST], stored[_DIGEST:]
            if hashlib.sha256(content).hexdigest().encode() == digest:
                os.utime(path)
                return content
        return None

    def write(self, key: str, content: bytes) -> None:
        """Make or replace an entry. It is written under another name and renamed: a reader sees all of it or none."""
        if len(content) > self._most_bytes:
            return
        with suppress(OSError, StorageError):
            folder = cache_folder(self._kind)
            folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=folder, prefix="partial-", delete=False) as partial:
                partial.write(hashlib.sha256(content).hexdigest().encode())
                partial.write(content)
            Path(partial.name).replace(folder / key)
            self._remove_oldest(folder)

    def _remove_oldest(self, folder: Path) -> None:
        """Remove what is above the limit. What a killed process left half-written is among the entries."""
        left = sorted(((one.stat(), one.path) for one in os.scandir(folder)), key=lambda one: one[0].st_mtime_ns)
        total = sum(status.st_size for status, _ in left)
        for status, path in left[:-1]:
            if total <= self._most_bytes:
                return
            total -= status.st_size
            with suppress(OSError):
                Path(path).unlink()
