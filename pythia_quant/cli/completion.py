"""What a shell may complete: names of recipes and of their variants."""

from __future__ import annotations

import typer

from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.recipe.recipe import load_recipe, shipped_recipes


def complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes whose name begins so; the shell itself completes files."""
    return [name for name in shipped_recipes() if name.startswith(incomplete)]


def complete_variant(context: typer.Context, incomplete: str) -> list[str]:
    """Return the variants, whose name begins so, of the recipe on the command line; none if the recipe has a fault."""
    # An option that has no value yet ends the parsing: the recipe before it is then among the arguments left over.
    recipe = context.params.get("recipe") or next(iter(context.args), "")
    try:
        variants = load_recipe(recipe).settings.variants
    except PythiaQuantError:
        return []
    return [name for name in variants if name.startswith(incomplete)]
