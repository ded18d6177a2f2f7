"""pythia-quant run: convert and measure everything a recipe names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from pythia_quant.cli.options import (
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
    RecipeArgument,
    Revision,
    TextFile,
    Threads,
    measuring_options,
    passages,
)
from pythia_quant.core.console import example, out_console, progress_console
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.model import suite
from pythia_quant.model.source_name import repository_of
from pythia_quant.model.suite import names_several, parse_revisions
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from pythia_quant.records.results import Results

commands = typer.Typer()

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

T = TypeVar("T")

GATE_FAILED, GATE_UNDECIDED = 3, 4
"""Exit codes of a finished measurement in which a gate failed, or one is undecided."""


@commands.command(
    epilog=example(
        "pythia-quant run demo",
        "pythia-quant run recipes/pythia-160m.yaml --only onnx-int8",
        "pythia-quant run pythia-160m --only onnx-int8 --revision step1000..step143000/10",
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
    overwrite: Overwrite = False,
    threads: Threads = None,
    memory: Memory = None,
    device: Device = DeviceName.CPU,
) -> None:
    """Convert every variant of RECIPE, measure each against the fp16 baseline, and print one table.

    Exits with 3 when a gate failed, with 4 when one is undecided. Of several revisions each has its table, in turn.
    """
    from pythia_quant.cli.jobs import run as run_recipe
    from pythia_quant.report.terminal import print_results

    options = measuring_options(threads, memory, device)

    def run_one(chosen: Recipe) -> Results:
        outcome = run_recipe(chosen, out, only or [], overwrite, progress_console, options)
        print_results(outcome.results, out_console)
        out_console.print(
            f"\nArtifacts and {outcome.path.name} are in {outcome.path.parent}", markup=False, soft_wrap=True
        )
        return outcome.results

    chosen = override(
        load_recipe(recipe),
        model=model,
        text=text,
        calibration=calibration,
        lambada=passages(lambada, no_lambada),
        context=context,
    )
    exit_by_gates(*call_in_turn(at_revisions(chosen, revision), run_one))


def at_revisions(recipe: Recipe, revision: str | None) -> list[Recipe]:
    """Return the recipe at every revision that the command line names."""
    if revision is None or not names_several(revision):
        return [override(recipe, revision=revision)]
    member = suite.find(repository_of(recipe.settings.source.model))
    return [override(recipe, revision=one) for one in parse_revisions(revision, member.steps if member else None)]


def call_in_turn(recipes: list[Recipe], do: Callable[[Recipe], T]) -> list[T]:
    """Call a function with the recipe at each revision; if there are several, an error says which are finished."""
    results: list[T] = []
    for recipe in recipes:
        try:
            results.append(do(recipe))
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


def exit_by_gates(*results: Results) -> None:
    """End with the exit code of the worst gate of all results; return when all passed."""
    outcomes = {gate.outcome for one in results for gate in one.gates}
    if "failed" in outcomes:
        raise typer.Exit(GATE_FAILED)
    if "undecided" in outcomes:
        raise typer.Exit(GATE_UNDECIDED)
