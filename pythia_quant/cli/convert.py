"""pythia-quant convert: make artifacts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.markup import escape

from pythia_quant.cli.arguments import check_out, check_packages
from pythia_quant.cli.options import (
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
from pythia_quant.cli.revisions import at_revisions, call_in_turn
from pythia_quant.core.console import example, out_console, progress_console
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import Recipe, load_recipe
from pythia_quant.recipe.set_keys import parse_assignments, set_keys

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()


@commands.command(epilog=example("pythia-quant convert demo --only gptq-int4 --out artifacts"))
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
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Convert the variants of RECIPE and measure nothing. Artifacts go to DIR/<source>/<revision>/<variant>."""
    show_progress(quiet=quiet, verbose=verbose)
    check_out(out)
    chosen = override(load_recipe(recipe), model=model, text=text, calibration=calibration, context=context)
    chosen = set_keys(chosen, parse_assignments(set_ or []))
    recipes = at_revisions(chosen, revision)
    check_packages(chosen, only or [])
    from pythia_quant.cli.jobs import convert_all

    def convert_one(chosen: Recipe, later: int) -> None:
        began = datetime.now(UTC)
        for artifact in convert_all(chosen, out, only or [], overwrite, progress_console, later):
            manifest = artifact.manifest
            size = f"{manifest.bits_per_weight:.2f} bits a weight, {manifest.bytes_on_disk / 1e6:.1f} MB on disk"
            there = " is there already" if manifest.created < began else ""
            out_console.print(
                f"[bold]{manifest.variant}[/]{there}: {size}, in {escape(str(artifact.folder))}", soft_wrap=True
            )

    call_in_turn(recipes, convert_one)
