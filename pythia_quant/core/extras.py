"""Packages that only some commands need."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from pythia_quant.core.errors import ArgumentError


def refuse_without(packages: Mapping[str, str], where: str) -> None:
    """Refuse to begin if packages are missing.

    Args:
        packages: the name that pip knows each package by, by the module that is imported.
        where: what needs them.

    Raises:
        ArgumentError: some are.
    """
    if missing := [name for module, name in packages.items() if find_spec(module) is None]:
        what = f"needs {' and '.join(missing)}, not installed here"
        raise ArgumentError(what, where=where, hint=f"pip install {' '.join(missing)}")
