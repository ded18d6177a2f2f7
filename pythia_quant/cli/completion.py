"""What a shell may complete: names of recipes, their variants, and studies, and folders of artifacts."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

import typer

from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.recipe.recipe import load_recipe, shipped_recipes
from pythia_quant.sweep.study import shipped_studies

_DEEPEST, _MOST_FOLDERS = 6, 2_000
"""How far below the word on the command line artifacts are looked for, and in how many folders: a home is large."""


def complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes whose name begins so; the shell itself completes files."""
    return [name for name in shipped_recipes() if name.startswith(incomplete)]


def complete_study(incomplete: str) -> list[str]:
    """Return the shipped studies whose name begins so."""
    return [name for name in shipped_studies() if name.startswith(incomplete)]


def complete_variant(context: typer.Context, incomplete: str) -> list[str]:
    """Return the variants, whose name begins so, of the recipe on the command line; none if the recipe has a fault."""
    # An option that has no value yet ends the parsing: the recipe before it is then among the arguments left over.
    recipe = context.params.get("recipe") or next(iter(context.args), "")
    try:
        variants = load_recipe(recipe).settings.variants
    except PythiaQuantError:
        return []
    return [name for name in variants if name.startswith(incomplete)]


def complete_artifact(incomplete: str) -> list[str]:
    """Return the artifacts whose path begins so, and the next folders, which may be named for all artifacts below.

    Nothing is returned where no artifact is found: the shell itself then completes folders. Manifests are not read.
    """
    place, beginning = os.path.split(incomplete)
    nearest = [path for path in _folders(place) if Path(path).name.startswith(beginning)]
    artifacts = []
    left = deque((path, 1) for path in nearest)
    for _ in range(_MOST_FOLDERS):
        if not left:
            break
        path, depth = left.popleft()
        if (Path(path) / MANIFEST).is_file():
            artifacts.append(path)
        elif depth < _DEEPEST:
            left.extend((below, depth + 1) for below in _folders(path))
    return sorted({*artifacts, *(f"{path}/" for path in nearest if path not in artifacts)}) if artifacts else []


def _folders(place: str) -> list[str]:
    """Return the folders in a folder, as they are typed; no hidden ones, and no links, which may lead in circles."""
    try:
        with os.scandir(place or ".") as entries:
            names = [one.name for one in entries if not one.name.startswith(".") and one.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [os.path.join(place, name) for name in names]  # noqa: PTH118 - Path would drop the ./ that was typed
