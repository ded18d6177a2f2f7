"""pythia-quant recipes: list, show and check recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from pythia_quant.cli.completion import complete_recipe
from pythia_quant.cli.options import AsJson
from pythia_quant.core.console import example, out_console, print_error, print_json
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.recipe.recipe import Recipe, load_recipe, shipped_recipes

commands = typer.Typer()

recipes = typer.Typer(
    help="List, show and check recipes: YAML files that say what to make of a model, and how to measure it.",
    no_args_is_help=True,
)

commands.add_typer(recipes, name="recipes")


@recipes.command("list", epilog=example("pythia-quant recipes list", variables=["output"]))
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes that ship with the package."""
    shipped = {name: load_recipe(path) for name, path in shipped_recipes().items()}
    if as_json:
        print_json([{"recipe": name, **_data(recipe)} for name, recipe in shipped.items()])
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "model", "variants"):
        table.add_column(heading)
    for name, recipe in shipped.items():
        table.add_row(name, recipe.settings.source.model, ", ".join(recipe.settings.variants))
    out_console.print(table)


def _data(recipe: Recipe) -> dict[str, object]:
    return {"model": recipe.settings.source.model, "variants": list(recipe.settings.variants), "id": recipe.id}


@recipes.command("show", epilog=example("pythia-quant recipes show pythia-160m > mine.yaml", variables=["output"]))
def show_recipe(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe file, or the name of a recipe that ships with the package.",
            autocompletion=complete_recipe,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Print a recipe, to read it or to begin a new one with it. With --json, defaults are printed, too."""
    recipe = load_recipe(name)
    content = recipe.path.read_text(encoding="utf-8")
    if as_json:
        print_json(recipe.canonical())
    elif out_console.is_terminal:
        out_console.print(Syntax(content, "yaml", background_color="default"))
    else:
        print(content, end="")


@recipes.command("validate", epilog=example("pythia-quant recipes validate mine.yaml", variables=["output"]))
def validate_recipes(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE", help="A recipe file. Give one or more.")],
    as_json: AsJson = False,
) -> None:
    """Check recipe files: keys, types, and that the settings fit the model where it is one of the suite."""
    checked: list[dict[str, object]] = []
    for path in paths:
        try:
            recipe = load_recipe(path)
            recipe.check_suite()
            checked.append({"recipe": path, "error": None, **_data(recipe)})
            if not as_json:
                out_console.print(f"{escape(str(path))}: valid, recipe id {recipe.id}", soft_wrap=True)
        except PythiaQuantError as error:
            checked.append({"recipe": path, "error": str(error)})
            print_error(error)
    if as_json:
        print_json(checked)
    if any(one["error"] for one in checked):
        raise typer.Exit(2)
