"""pythia-quant convert: make artifacts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pythia_quant.cli.arguments import check_out, check_packages
from pythia_quant.cli.options import (
    AsJson,
    CalibrationFile,
    Context,
    Model,
    Only,
    Out,
    Overwrite,
    Quiet,
    RecipeArgument,
    Revision,
    Set,
    TextFile,
    Verbose,
    show_progress,
)
from pythia_quant.cli.outcomes import conversion_data, print_conversion
from pythia_quant.cli.revisions import at_revisions, call_in_turn
from pythia_quant.core.console import EVERY_VARIABLE, example, print_json, progress_console
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import Recipe, load_recipe
from pythia_quant.recipe.set_keys import parse_assignments, set_keys

if TYPE_CHECKING:
    from pythia_quant.artifacts.artifact import Artifact

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()


@commands.command(
    epilog=example("pythia-quant convert demo --only gptq-int4 --out artifacts", variables=EVERY_VARIABLE)
)
def convert(
    recipe: RecipeArgument,
    only: Only = None,
    out: Out = Path("artifacts"),
    model: Model = None,
    revision: Revision = None,
    text: TextFile = None,
    calibration: CalibrationFile = None,
    context: Context = None,
    set_: Set = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Convert the variants of RECIPE and measure nothing.

    The artifacts go to DIR/<source>/<revision>/<variant>. One that is there already is verified and not made again.
    """
    show_progress(quiet=quiet, verbose=verbose)
    check_out(out)
    chosen = override(load_recipe(recipe), model=model, text=text, calibration=calibration, context=context)
    chosen = set_keys(chosen, parse_assignments(set_ or []))
    recipes = at_revisions(chosen, revision)
    only = check_packages(chosen, only or [])
    from pythia_quant.cli.jobs import convert_all

    began = datetime.now(UTC)

    def convert_one(chosen: Recipe, later: int) -> list[Artifact]:
        artifacts = convert_all(chosen, out, only, overwrite, progress_console, later)
        for artifact in () if as_json else artifacts:
            print_conversion(artifact, began)
        return artifacts

    converted = [artifact for artifacts in call_in_turn(recipes, convert_one) for artifact in artifacts]
    if as_json:
        print_json([conversion_data(artifact, began) for artifact in converted])
