"""Where is kept what can be had again."""

from __future__ import annotations

import os
from pathlib import Path

from pythia_quant.errors import StorageError


def cache_folder(of: str) -> Path:
    """Return the folder for one kind of thing, below PYTHIA_QUANT_CACHE or ``pythia-quant`` in the user's cache.

    Raises:
        StorageError: nothing says where that is: the user has no home.
    """
    own = os.environ.get("PYTHIA_QUANT_CACHE")
    if own:
        return Path(own) / of
    users = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path.home() raises
    if users.startswith("~"):
        raise StorageError(
            "there is no home folder to keep a cache in", hint="name one in PYTHIA_QUANT_CACHE, or set HOME"
        )
    return Path(users) / "pythia-quant" / of
