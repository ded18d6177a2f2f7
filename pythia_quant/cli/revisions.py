"""The revisions that a command line names: a recipe at each of them, in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.model import suite
from pythia_quant.model.source_name import repository_of
from pythia_quant.model.suite import names_several, parse_revisions
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import Recipe

T = TypeVar("T")


def at_revisions(recipe: Recipe, revision: str | None) -> list[Recipe]:
    """Return the recipe at every revision that the command line names."""
    if revision is None or not names_several(revision):
        return [override(recipe, revision=revision)]
    member = suite.find(repository_of(recipe.settings.source.model))
    return [override(recipe, revision=one) for one in parse_revisions(revision, member.steps if member else None)]


def call_in_turn(recipes: list[Recipe], do: Callable[[Recipe, int], T]) -> list[T]:
    """Call a function with the recipe at each revision, and with how many follow.

    If there are several, an error says which are finished.
    """
    results: list[T] = []
    for recipe in recipes:
        try:
            results.append(do(recipe, len(recipes) - len(results) - 1))
        except PythiaQuantError as error:
            if len(recipes) == 1:
                raise
            names = [one.settings.source.revision for one in recipes[: len(results) + 1]]
            finished = f"kept, done before it: {', '.join(names[:-1])}" if results else ""
            raise type(error)(
                error.what,
                where=": ".join(filter(None, (names[-1], error.where))),
                hint="\n  ".join(filter(None, (error.hint, finished))),
            ) from error
    return results
