"""The packages that variants need and that are not installed, named all at once."""

from __future__ import annotations

from collections.abc import Mapping

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.table import missing_packages

NOT_EVERYWHERE = ("xllamacpp",)
"""Packages that install without a compiler on some platforms only; a recipe's other variants do without them."""


def missing_of_variants(variants: Mapping[str, VariantSettings]) -> dict[str, list[str]]:
    """Return the packages that are missing for each variant that lacks some."""
    missing = {name: missing_packages(settings) for name, settings in variants.items()}
    return {name: packages for name, packages in missing.items() if packages}


def refuse_missing(needs: Mapping[str, list[str]], otherwise: str = "") -> None:
    """Refuse to begin if packages are missing.

    Args:
        needs: the missing packages, by the name of what needs them.
        otherwise: what else could be done.

    Raises:
        ArtifactError: there are such.
    """
    if not needs:
        return
    users: dict[tuple[str, ...], list[str]] = {}
    for user, packages in needs.items():
        users.setdefault(tuple(packages), []).append(user)
    sentences = [f"{_list(names)} {_verb(names)} {_list(packages)}" for packages, names in users.items()]
    install = f"pip install {' '.join(dict.fromkeys(package for packages in users for package in packages))}"
    hint = "\n  ".join(filter(None, (install, otherwise)))
    raise ArtifactError(f"{'; '.join(sentences)}: not installed here", hint=hint)


def _verb(names: list[str]) -> str:
    return "needs" if len(names) == 1 else "need"


def _list(names: list[str] | tuple[str, ...]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
