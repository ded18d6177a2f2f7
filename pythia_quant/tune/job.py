"""The jobs of the commands `sensitivity` and `tune`: what tensors cost, and a recipe within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.core import machine, process
from pythia_quant.core.errors import RecipeError
from pythia_quant.core.files import temporary_folder
from pythia_quant.core.progress import Steps
from pythia_quant.formats.packages import missing_of_variants, refuse_missing
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.recipe.recipe import Recipe
from pythia_quant.tune.budget import Budget
from pythia_quant.tune.choices import is_tunable
from pythia_quant.tune.comparison import Line, compared
from pythia_quant.tune.cost import Cost
from pythia_quant.tune.foresight import Foresight
from pythia_quant.tune.knapsack import Item, Items
from pythia_quant.tune.matrix import Matrix, measure_matrix
from pythia_quant.tune.outcome import Outcome
from pythia_quant.tune.recipe_file import recipe_text, write_outcome
from pythia_quant.tune.records import Sensitivity
from pythia_quant.tune.search import Found, search_drift, search_size
from pythia_quant.tune.sensitivity import Search, find_sensitivities
from pythia_quant.tune.texts import Part, TextChoice, search_and_selection
from pythia_quant.tune.together import Together
from pythia_quant.tune.trials import Trial, Trials

_CALIBRATED = "with-a-solved-head"
TUNED = "tuned"
"""What the name of a tuned variant ends with."""


def tunable(recipe: Recipe, only: Sequence[str]) -> list[str]:
    """Return the variants to tune: those in `only`, or the first of each format whose tensors have options.

    Raises:
        RecipeError: there are none, or one in `only` has no options.
    """
    if only:
        for name, settings in recipe.variants(list(only)).items():
            if not is_tunable(settings):
                what = "tensors of it have no options: tune takes variants of gguf and onnx in blocks, without codes"
                raise recipe.error(("variants", name), what)
        return list(only)
    first: dict[str, str] = {}
    for name, settings in recipe.settings.variants.items():
        if is_tunable(settings) and not missing_of_variants({name: settings}):
            first.setdefault(settings.format, name)
    if not first:
        hint = "add a variant with format: gguf or format: onnx"
        raise RecipeError("has no variant whose tensors have options of their own", where=str(recipe.path), hint=hint)
    return list(first.values())


def open_inputs(recipe: Recipe, names: list[str], steps: Steps) -> Inputs:
    """Open a recipe with its calibration text, also if only options of the search need it.

    Raises:
        PythiaQuantError: see :func:`~pythia_quant.artifacts.inputs.load_inputs`.
    """
    refuse_missing(missing_of_variants(recipe.variants(names)))
    variants = {name: recipe.settings.variants[name] for name in names}
    opened = dict(variants)
    for settings in variants.values():
        if isinstance(settings, OnnxSettings) and recipe.settings.calibration is not None:
            opened[_CALIBRATED] = settings.model_copy(update={"head": "int4"})
    with steps.step("opening source and texts") as step:
        wider = replace(recipe, settings=recipe.settings.model_copy(update={"variants": opened}))
        inputs = load_inputs(wider, step, only=list(opened))
    content = inputs.recipe.settings.model_copy(update={"variants": recipe.settings.variants})
    return replace(inputs, recipe=replace(inputs.recipe, settings=content))


def sensitivities(
    recipe: Recipe, names: list[str], folder: Path, texts: TextChoice, steps: Steps, *, measures: bool
) -> dict[str, Sensitivity]:
    """Return what the tensors of variants cost, by the name of the variant; each is in a file of `folder`, too."""
    inputs = open_inputs(recipe, names, steps)
    return _sensitivities(inputs, names, _place(folder, inputs), texts, steps, measures=measures)[0]


def matrix_of(
    recipe: Recipe, only: list[str], texts: Sequence[Path], folder: Path, windows: int, steps: Steps
) -> Matrix:
    """Calibrate a variant on each of several texts, and evaluate on each; see :mod:`pythia_quant.tune.matrix`.

    Raises:
        RecipeError: the variant named, or the first of the recipe, does not calibrate.
        PythiaQuantError: a text is too short, or a conversion or a measurement failed.
    """
    calibrating = [name for name, settings in recipe.variants(only or None).items() if settings.calibrates]
    if not calibrating or len(only) > 1:
        hint = "name one that does with --only, such as gguf-q4 or gptq-int4"
        raise RecipeError("one variant that calibrates is needed", where=str(recipe.path), hint=hint)
    refuse_missing(missing_of_variants(recipe.variants(calibrating[:1])))
    with steps.step("opening source and texts") as step:
        inputs = load_inputs(recipe, step, only=calibrating[:1])
    return measure_matrix(inputs, calibrating[0], texts, _place(folder, inputs), windows, steps)


def _place(folder: Path, inputs: Inputs) -> Path:
    return folder / inputs.source.slug / inputs.source.revision.replace("/", "--")


def _sensitivities(
    inputs: Inputs, names: list[str], folder: Path, texts: TextChoice, steps: Steps, *, measures: bool
) -> tuple[dict[str, Sensitivity], tuple[Part, Part]]:
    with steps.step("reading search and selection text") as step:
        search, selection = search_and_selection(inputs, texts, step)
    found = {}
    for name in names:
        with steps.step(f"sensitivity of {name}") as step:
            found[name] = find_sensitivities(Search(inputs, name, search, folder, measures), step)
    return found, (search, selection)


def tune(
    recipe: Recipe,
    names: list[str],
    folder: Path,
    budget: Budget,
    texts: TextChoice,
    steps: Steps,
    *,
    measures: bool,
    runner: process.Worker | process.Here | None = None,
) -> Outcome:
    """Search the choices of variants within a budget, and write the recipe of the best.

    Everything that was found or measured is kept in `folder`: the same call after an interruption goes on from it.

    Args:
        recipe: the recipe.
        names: the variants.
        folder: the folder for all that is written.
        budget: what is asked for.
        texts: where search and selection text come from.
        steps: shows progress; there are four, and two for each variant.
        measures: whether what tensors cost is measured, or only predicted.
        runner: checks conversions and measures; a fresh process by default.

    Raises:
        PythiaQuantError: a conversion or a measurement failed; what was measured before stays.
    """
    inputs = open_inputs(recipe, names, steps)
    place = _place(folder, inputs)
    if len(texts.selection) > 1:  # then it says itself how much kinds of text differ
        budget = replace(budget, least_margin=0.0)
    costs, (search, selection) = _sensitivities(inputs, names, place, texts, steps, measures=measures)
    machine.bound_torch()
    threads = runner.threads if runner else machine.cores()
    find = search_size if budget.size is not None else search_drift
    foreseen = 0.0
    with runner or process.Worker(threads) as worker:
        found, made = {}, dict[str, Trials]()
        for name in names:
            with steps.step(f"choosing and measuring {name}") as step, temporary_folder() as states:
                items = items_of(costs[name])
                made[name] = Trials(inputs, name, items, search, selection, place, worker, threads, step)
                together = Together(Search(inputs, name, search, place, measures), states, step)
                found[name] = find(made[name], Foresight(items, together), budget)
                foreseen += together.seconds
        best = _best(found, budget)
        with steps.step("measuring on the evaluation text"):
            lines = _evaluate(found[best], made[best])
    with steps.step("writing the recipe"):
        path = _write(inputs.recipe, lines[0].trial, costs[best], budget, place) if lines else None
        for trials in made.values():
            trials.remove_artifacts()
    return Outcome(budget, costs, found, best, lines, path, _cost(costs, found, best, lines, foreseen))


def _write(recipe: Recipe, trial: Trial, sensitivity: Sensitivity, budget: Budget, place: Path) -> Path:
    path = place / f"{trial.variant}-{TUNED}.yaml"
    write_outcome(recipe_text(recipe, trial, sensitivity, budget, path.stem), path)
    return path


def _cost(
    costs: dict[str, Sensitivity], found: dict[str, Found], best: str, lines: list[Line], foreseen: float
) -> Cost:
    chosen = found[best].best
    once = 0.0
    if chosen is not None and lines:
        # What the first measurement of these choices has converted, the others have only opened.
        trials = (chosen, *found[best].pilots, lines[0].trial)
        converting = max([*(trial.spent.converting for trial in trials), *found[best].converting])
        once = converting + lines[0].trial.spent.measuring
    return Cost(
        alone=sum(each.seconds for each in costs.values()),
        foreseen=foreseen,
        trials=sum(
            sum(trial.spent.total for trial in (*each.trials, *each.pilots)) + sum(each.converting)
            for each in found.values()
        ),
        once=once,
        table=sum(line.trial.spent.total for line in lines),
    )


def items_of(sensitivity: Sensitivity) -> Items:
    """Return the options of all tensors with their bytes as costs and their divergences as loads."""
    return {
        key: {option: Item(float(cell.bytes), cell.value) for option, cell in cells.items()}
        for key, cells in sensitivity.table().items()
    }


def _best(found: dict[str, Found], budget: Budget) -> str:
    """Return the variant with the best trial, or, where none is within the budget, the one that comes nearest."""

    def rank(name: str) -> tuple[bool, float]:
        trial = found[name].best or found[name].nearest
        if found[name].best is None:
            return True, trial.bytes if budget.size is not None else budget.use(trial.results)
        return False, trial.kl if budget.size is not None else trial.bytes

    return min(found, key=rank)


def _evaluate(found: Found, trials: Trials) -> list[Line]:
    if found.best is None:
        return []
    text = Part(trials.inputs.evaluation_text, trials.inputs.evaluation)
    mix = trials.make(found.best.choices, text, weights=True)
    lines = [Line(role="mix", trial=mix)]
    for role, choices in (("same size", found.uniform), ("within", found.within)):
        if choices is None or (role == "within" and choices == found.uniform):
            continue
        theirs = mix if choices == found.best.choices else trials.make(choices, text)
        lines.append(compared(role, theirs, mix))  # type: ignore[arg-type]
    return lines
