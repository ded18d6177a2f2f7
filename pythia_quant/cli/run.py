"""pythia-quant run: convert and measure everything a recipe names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pythia_quant.cli.arguments import check_out, check_packages
from pythia_quant.cli.gates import exit_by_gates
from pythia_quant.cli.options import (
    AsJson,
    CalibrationFile,
    Context,
    Device,
    DeviceName,
    LambadaFile,
    Memory,
    Model,
    NoLambada,
    Only,
    Out,
    Overwrite,
    Quiet,
    RecipeArgument,
    Revision,
    Set,
    TextFile,
    Threads,
    Verbose,
    measuring_options,
    passages,
    show_progress,
)
from pythia_quant.cli.outcomes import print_outcome, print_results_json
from pythia_quant.cli.revisions import at_revisions, call_in_turn
from pythia_quant.core.console import (
    EVERY_VARIABLE,
    GATE_CODES,
    example,
    progress_console,
)
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import Recipe, load_recipe
from pythia_quant.recipe.set_keys import parse_assignments, set_keys

if TYPE_CHECKING:
    from pythia_quant.records.results import Results

commands = typer.Typer()

_Quick = Annotated[
    bool,
    typer.Option(
        "--quick", help="Measure only 8 windows and one round, for a first look, into quick.json. Gates are not judged."
    ),
]
_DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Only say what would be done, and about the memory, disk and time that it takes."),
]

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed


@commands.command(
    epilog=example(
        "pythia-quant run demo --quick",
        "pythia-quant run pythia-410m --dry-run",
        "pythia-quant run recipes/pythia-160m.yaml --only onnx-int8",
        "pythia-quant run pythia-160m --only onnx-int8 --revision step1000..step143000/10",
        codes=GATE_CODES,
        variables=EVERY_VARIABLE,
    )
)
def run(
    recipe: RecipeArgument,
    only: Only = None,
    out: Out = Path("artifacts"),
    model: Model = None,
    revision: Revision = None,
    text: TextFile = None,
    calibration: CalibrationFile = None,
    lambada: LambadaFile = None,
    no_lambada: NoLambada = False,
    context: Context = None,
    set_: Set = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    memory: Memory = None,
    device: Device = DeviceName.CPU,
    quick: _Quick = False,
    dry_run: _DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Convert every variant of RECIPE, measure each against the fp16 baseline, and print one table.

    An artifact that is there already is not made again. Of several revisions each has its table, in turn.
    """
    show_progress(quiet=quiet, verbose=verbose)
    check_out(out)
    chosen = override(
        load_recipe(recipe),
        model=model,
        text=text,
        calibration=calibration,
        lambada=passages(lambada, no_lambada),
        context=context,
    )
    chosen = set_keys(chosen, parse_assignments(set_ or []))
    recipes = at_revisions(chosen, revision)
    only = check_packages(chosen, only or [])
    options = replace(measuring_options(threads, memory, device), quick=quick)
    if dry_run:
        from pythia_quant.cli.dry_run import dry_runs

        dry_runs(recipes, out, only, options, overwrite=overwrite, as_json=as_json)
        return
    from pythia_quant.cli.jobs import run as run_recipe

    def run_one(chosen: Recipe, later: int) -> Results:
        outcome = run_recipe(chosen, out, only, overwrite, progress_console, options, later)
        if not as_json:  # what is the same for every revision is said below the first table only
            print_outcome(outcome, explain=chosen is recipes[0])
        return outcome.results

    results = call_in_turn(recipes, run_one)
    if as_json:
        print_results_json(results)
    exit_by_gates(*results)
