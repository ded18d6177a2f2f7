"""pythia-quant recipes: list, show and check recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from pythia_quant.core.console import example, out_console, print_error
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.recipe.recipe import load_recipe, shipped_recipes

commands = typer.Typer()

recipes = typer.Typer(help="List, show and check recipes.", no_args_is_help=True)

commands.add_typer(recipes, name="recipes")


@recipes.command("list", epilog=example("pythia-quant recipes list"))
def list_recipes() -> None:
    """List the recipes that ship with the package."""
    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "model", "variants"):
        table.add_column(heading)
    for name, path in shipped_recipes().items():
        settings = load_recipe(path).settings
        table.add_row(name, settings.source.model, ", ".join(settings.variants))
    out_console.print(table)


@recipes.command("show", epilog=example("pythia-quant recipes show pythia-160m > mine.yaml"))
def show_recipe(name: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a file.")]) -> None:
    """Print a recipe, to read it or to begin a new one with it."""
    content = load_recipe(name).path.read_text(encoding="utf-8")
    if out_console.is_terminal:
        out_console.print(Syntax(content, "yaml", background_color="default"))
    else:
        print(content, end="")


@recipes.command("validate", epilog=example("pythia-quant recipes validate mine.yaml"))
def validate_recipes(paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recipe files.")]) -> None:
    """Check recipe files: keys, types, and that the settings fit the model where it is one of the suite."""
    errors = 0
    for path in paths:
        try:
            recipe = load_recipe(path)
            recipe.check_suite()
            out_console.print(f"{escape(str(path))}: valid, recipe id {recipe.id}", soft_wrap=True)
        except PythiaQuantError as error:
            errors += 1
            print_error(error)
    if errors:
        raise typer.Exit(2)
