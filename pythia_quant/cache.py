"""Where is kept what can be had again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(of: str) -> Path:
    """Return the folder for one kind of thing, below PYTHIA_QUANT_CACHE or ``pythia-quant`` in the user's cache."""
    own = os.environ.get("PYTHIA_QUANT_CACHE")
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(own) if own else users / "pythia-quant") / of
