"""pythia-quant tune: the smallest or fastest artifact within a budget, as a recipe."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pythia_quant.cli.options import (
    AsJson,
    CalibrationFile,
    Model,
    Only,
    Quiet,
    RecipeArgument,
    Set,
    TextFile,
    Verbose,
    show_progress,
)
from pythia_quant.cli.sensitivity import (
    Predict,
    SearchText,
    SearchWindows,
    TuneOut,
    draw_sensitivities,
    opened_recipe,
    text_choice,
)
from pythia_quant.core.console import EVERY_VARIABLE, example, out_console, print_json, progress_console
from pythia_quant.core.errors import ArgumentError
from pythia_quant.core.files import replace_file
from pythia_quant.recipe.recipe import Recipe

if TYPE_CHECKING:
    from pythia_quant.tune.outcome import Outcome

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()

UNMET = 3
"""Exit code where no choice meets the budget."""


_Within = Annotated[
    str | None,
    typer.Option("--within", metavar="LIMITS", help='Limits on drift as run, such as "max_kl: 5 mnat".'),
]
_Size = Annotated[
    str | None, typer.Option("--size", metavar="SIZE", help="The most that the weights take, such as 60MB.")
]
_Minimize = Annotated[
    str | None,
    typer.Option("--minimize", metavar="WHAT", help="size, or kl.", show_default="size; kl with --size"),
]
_MatrixTexts = Annotated[
    list[Path] | None,
    typer.Option(
        "--matrix",
        metavar="FILE",
        help="Choose nothing: calibrate on the first half of this text, and evaluate on the second. Give several.",
    ),
]
_SelectionText = Annotated[
    list[Path] | None,
    typer.Option(
        "--selection-text",
        metavar="FILE",
        help="Measure what was chosen on this text; give several of different kinds.",
        show_default="what calibration has not drawn of its text",
    ),
]
_Margin = Annotated[
    float | None,
    typer.Option(
        "--margin",
        metavar="PERCENT",
        min=0,
        max=90,
        help="Keep so much of each limit on drift for other text.",
        show_default="what docs/tune.md says",
    ),
]
_SelectionWindows = Annotated[
    int, typer.Option("--selection-windows", metavar="N", min=8, max=100_000, help="Windows of the selection text.")
]


@commands.command(
    epilog=example(
        'pythia-quant tune demo --only onnx-int8 --within "max_kl: 5 mnat"',
        "pythia-quant tune demo --size 1.6MB --predict",
        "pythia-quant tune demo --only gguf-q4 --matrix code.txt --matrix prose.txt",
        codes={"3": "No choice meets the budget; the nearest is said."},
        variables=EVERY_VARIABLE,
    )
)
def tune(
    recipe: RecipeArgument,
    within: _Within = None,
    size: _Size = None,
    minimize: _Minimize = None,
    margin: _Margin = None,
    matrix: _MatrixTexts = None,
    only: Only = None,
    out: TuneOut = Path("tuned"),
    model: Model = None,
    text: TextFile = None,
    calibration: CalibrationFile = None,
    search_text: SearchText = None,
    selection_text: _SelectionText = None,
    search_windows: SearchWindows = 16,
    selection_windows: _SelectionWindows = 64,
    predict: Predict = False,
    set_: Set = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Choose a type for every tensor within a budget, measure the choice, and write it as a recipe that `run` takes.

    Types are chosen on a search text and measured on a selection text; the last table is of the evaluation text, which
    nothing was chosen on. A part of each limit is kept, because drift differs from text to text. After an interruption
    the same command goes on.
    """
    show_progress(quiet=quiet, verbose=verbose)
    if matrix:
        if within or size or minimize or margin is not None:
            hint = "leave --within, --size, --minimize and --margin out"
            raise ArgumentError("chooses nothing", where="--matrix", hint=hint)
        if len(matrix) < 2:
            raise ArgumentError("needs two texts at least", where="--matrix", hint="give the option once for each")
        chosen = opened_recipe(recipe, out, model, text, calibration, set_)
        _matrix(chosen, only or [], matrix, out, selection_windows, as_json=as_json)
        return
    from pythia_quant.tune.budget import parse_budget

    budget = parse_budget(within, size, minimize, margin)
    chosen = opened_recipe(recipe, out, model, text, calibration, set_)
    from pythia_quant.core.progress import Steps
    from pythia_quant.tune.job import tunable
    from pythia_quant.tune.job import tune as tune_recipe

    names = tunable(chosen, only or [])
    texts = text_choice(search_text, selection_text, search_windows, selection_windows)
    with Steps(4 + 2 * len(names), progress_console) as steps:
        outcome = tune_recipe(chosen, names, out, budget, texts, steps, measures=not predict)
    _report(outcome, out, as_json=as_json)
    if outcome.recipe is None:
        raise typer.Exit(UNMET)


def _report(outcome: Outcome, out: Path, *, as_json: bool) -> None:
    """Print what was found, and write it beside the recipe."""
    from pythia_quant.report.style import render_figure
    from pythia_quant.tune.plots import draw_front
    from pythia_quant.tune.tables import comparison_table, trials_table

    paths = draw_sensitivities(outcome.sensitivities, out)
    data = _data(outcome)
    place = paths[0].parent
    replace_file(place / "tuned.json", json.dumps(data, indent=1) + "\n")
    chosen = outcome.lines[0].trial if outcome.lines else None
    (place / "tuned.png").write_bytes(render_figure(draw_front(outcome.trials, chosen), "png"))
    if as_json:
        print_json(data)
        return
    out_console.print(trials_table(outcome.trials))
    out_console.print()
    if outcome.lines:
        out_console.print(comparison_table(outcome.lines, outcome.budget))
        out_console.print()
    sentences = _sentences(outcome)
    written = [*filter(None, [outcome.recipe]), place / "tuned.json", place / "tuned.png", *paths]
    for line in [*sentences, *map(str, written)]:
        out_console.print(line, markup=False, highlight=False, soft_wrap=True)


def _sentences(outcome: Outcome) -> list[str]:
    from pythia_quant.tune.comparison import verdicts
    from pythia_quant.tune.outcome import cost_sentence, margin_sentence, remarks

    said = remarks(outcome)
    if outcome.lines:
        said += [margin_sentence(outcome), *verdicts(outcome.lines, outcome.budget)]
    return [*filter(None, said), cost_sentence(outcome.cost)]


def _data(outcome: Outcome) -> dict[str, Any]:
    from pythia_quant.tune.comparison import verdicts
    from pythia_quant.tune.outcome import margin_sentence, remarks
    from pythia_quant.tune.plots import front, knee
    from pythia_quant.tune.tables import line_data

    best = front(sorted(outcome.trials, key=lambda trial: trial.bytes))
    middle = knee(best)
    trials = [
        {
            "variant": trial.variant, "choices": trial.choices, "bytes": trial.bytes, "kl_mnat": 1000 * trial.kl,
            "alone_mnat": 1000 * trial.alone, "uniform": trial.uniform, "front": trial in best, "knee": trial == middle,
            "use": outcome.budget.use(trial.results) if outcome.budget.drift else None,
            "use_elsewhere": outcome.budget.use_elsewhere(trial.results) if outcome.budget.drift else None,
        }
        for trial in outcome.trials
    ]  # fmt: skip
    return {
        "budget": asdict(outcome.budget),
        "recipe": outcome.recipe and str(outcome.recipe),
        "remarks": [*remarks(outcome), *filter(None, [margin_sentence(outcome)])],
        "verdicts": verdicts(outcome.lines, outcome.budget) if outcome.lines else [],
        "evaluation": [line_data(line, outcome.budget) for line in outcome.lines],
        "cost_seconds": asdict(outcome.cost) | {"search": outcome.cost.search, "ratio": outcome.cost.ratio},
        "files": outcome.lines[0].trial.files if outcome.lines else {},
        "trials": trials,
    }


def _matrix(recipe: Recipe, only: list[str], texts: list[Path], out: Path, windows: int, *, as_json: bool) -> None:
    """Calibrate on each text, evaluate on each, and print the table."""
    from pythia_quant.core.progress import Steps
    from pythia_quant.tune.job import matrix_of
    from pythia_quant.tune.tables import matrix_data, matrix_table

    with Steps(1 + len(texts), progress_console) as steps:
        matrix = matrix_of(recipe, only, texts, out, windows, steps)
    if as_json:
        print_json(matrix_data(matrix))
        return
    out_console.print(matrix_table(matrix))
    out_console.print(
        f"KL of {matrix.variant} as run, mnat, ± 95 % interval; in brackets, the difference from calibrating on the "
        "text itself, in pairs. Each text calibrates with its first half and evaluates on its second.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
