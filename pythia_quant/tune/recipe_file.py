"""The outcome as a recipe file, with the reason for every choice in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pythia_quant.recipe.recipe import Recipe, parse_recipe
from pythia_quant.tune.budget import Budget
from pythia_quant.tune.choices import with_choices
from pythia_quant.tune.records import Cell, Sensitivity
from pythia_quant.tune.trials import Trial


def recipe_text(recipe: Recipe, trial: Trial, sensitivity: Sensitivity, budget: Budget, name: str) -> str:
    """Return the recipe file of a trial: `run` and `convert` take it, and give the bytes that were measured.

    Args:
        recipe: the recipe that was tuned.
        trial: the choices.
        sensitivity: what each costs alone.
        budget: what they were chosen for; its limits on drift are the gates.
        name: of the variant.
    """
    data = recipe.settings.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    settings = with_choices(recipe.settings.variants[trial.variant], trial.choices)
    data["variants"] = {name: settings.model_dump(mode="json", exclude_none=True)}
    data["gates"] = {name: budget.drift} if budget.drift else {}
    data["basis"] = basis(trial, sensitivity, name, data["variants"][name])
    head = (
        f"# Written by pythia-quant tune of {trial.variant}: {budget.describe()}, the least {budget.minimize}.\n"
        f"# {trial.name}.\n"
        "# pythia-quant run or convert with this file makes the artifact that was measured.\n"
    )
    return head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def basis(trial: Trial, sensitivity: Sensitivity, name: str, settings: dict[str, Any]) -> dict[str, str]:
    """Return the reason for each choice, by the key of the setting that says it."""
    table, reasons = sensitivity.table(), dict[str, str]()
    text = f"{sensitivity.windows} windows of {sensitivity.text.name}"
    for key, option in trial.choices.items():
        setting = _setting(name, key, settings)
        reasons.setdefault(setting, _reason(table[key][option], text))
    if f"variants.{name}.weights" not in reasons:
        reasons[f"variants.{name}.weights"] = "measured: the most frequent type of the layers; each has its own below"
    elif trial.uniform:
        reasons[f"variants.{name}.weights"] = f"measured: one type for all layers, each alone on {text}"
    if "adapt" in settings:
        reasons[f"variants.{name}.adapt"] = "derived: tensors are stored as they were chosen"
    return reasons


def _setting(name: str, key: str, settings: dict[str, Any]) -> str:
    if key not in settings.get("tensors", {}):
        return f"variants.{name}.{key if key in ('embeddings', 'head') else 'weights'}"
    leaf = ".weights" if isinstance(settings["tensors"][key], dict) else ""
    return f"variants.{name}.tensors.{key}{leaf}"


def _reason(cell: Cell, text: str) -> str:
    if cell.margin is None:
        return f"derived: alone, a predicted {1000 * cell.value:.3g} mnat on {text}"
    return f"measured: alone, {1000 * cell.value:.3g} ± {1000 * cell.margin:.2g} mnat on {text}"


def write_outcome(text: str, path: Path) -> Recipe:
    """Write the recipe file, after reading it as users will."""
    recipe = parse_recipe(yaml.safe_load(text), {}, path)
    path.write_text(text, encoding="utf-8")
    return recipe
