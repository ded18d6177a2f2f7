"""Change a recipe by the options of the command line, and fit it to the context of another model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pythia_quant.core.errors import without_links
from pythia_quant.core.progress import Progress
from pythia_quant.model.architecture import Architecture
from pythia_quant.recipe.measurement import DECODED, LambadaSettings, LatencySettings, TaskSettings
from pythia_quant.recipe.recipe import CalibrationSettings, Recipe, TextSettings, shipped_recipes
from pythia_quant.recipe.yaml_lines import Keys

MODEL: Keys = ("source", "model")
TEXT, CALIBRATION = ("evaluation", "text"), ("calibration", "text")
LAMBADA: Keys = ("tasks", "lambada")
CONTEXTS = (("evaluation", "context"), ("calibration", "context"))


def override(
    recipe: Recipe,
    *,
    model: str | None = None,
    revision: str | None = None,
    text: Path | None = None,
    calibration: Path | None = None,
    lambada: Path | bool | None = None,
    context: int | None = None,
) -> Recipe:
    """Return the recipe with the settings that the command line replaces.

    Args:
        recipe: the recipe, which is not changed.
        model: the name of a model; see :func:`pythia_quant.model.source_name.parse_model`.
        revision: the revision of a repository.
        text: the text to evaluate on.
        calibration: the text to calibrate on.
        lambada: the file of LAMBADA's passages; False leaves LAMBADA out.
        context: the tokens in a window, in evaluation and calibration.
    """
    settings = recipe.settings
    chosen = {key: value for key, value in (("model", model), ("revision", revision)) if value}
    length = {"context": context} if context else {}
    update: dict[str, Any] = {"source": settings.source.model_copy(update=chosen)}
    update["evaluation"] = settings.evaluation.model_copy(update=length | _text(text))
    if settings.calibration is not None:
        update["calibration"] = settings.calibration.model_copy(update=length | _text(calibration))
    elif calibration is not None:
        update["calibration"] = CalibrationSettings(text=_file(calibration), context=context)
    if lambada is False:
        update["tasks"] = TaskSettings()
    elif isinstance(lambada, Path):
        update["tasks"] = TaskSettings(lambada=LambadaSettings(file=str(without_links(lambada))))
    options: dict[Keys, tuple[str, Any]] = {
        MODEL: ("--model", model),
        TEXT: ("--text", text),
        CALIBRATION: ("--calibration", calibration),
        LAMBADA: ("--lambada", lambada),
        **dict.fromkeys(CONTEXTS, ("--context", context)),
    }
    replaced_by = {keys: option for keys, (option, value) in options.items() if value is not None}
    return replace(recipe, settings=settings.model_copy(update=update), options={**recipe.options, **replaced_by})


def _text(file: Path | None) -> dict[str, TextSettings]:
    return {} if file is None else {"text": _file(file)}


def _file(path: Path) -> TextSettings:
    return TextSettings(file=str(without_links(path)))


def without_fetched_passages(recipe: Recipe, names: list[str], progress: Progress) -> Recipe:
    """Return the recipe without LAMBADA if its passages are the only text that would be fetched from a hub.

    That is so when the command line names files for all other texts.

    Args:
        recipe: the recipe with the options of the command line.
        names: the chosen variants.
        progress: receives a sentence if LAMBADA is left out.
    """
    lambada = recipe.settings.tasks.lambada
    texts_are_files = TEXT in recipe.options and (CALIBRATION in recipe.options or not recipe.calibrates(names))
    if lambada is None or not lambada.dataset or LAMBADA in recipe.options or not texts_are_files:
        return recipe
    progress.notice("LAMBADA is not fetched, as the texts were given as files; --lambada FILE measures it")
    return replace(recipe, settings=recipe.settings.model_copy(update={"tasks": TaskSettings()}))


def fit_context(recipe: Recipe, architecture: Architecture, progress: Progress) -> Recipe:
    """Fit a recipe to the context of the model that the command line names in place of the recipe's own.

    Windows and prompts that are longer than the model's context are shortened to it. In a recipe that ships with the
    package, shorter windows are lengthened, too, because they are meant to fill the context. Nothing changes if the
    command line names no model, and contexts that the command line sets stay.

    Args:
        recipe: the recipe with the options of the command line.
        architecture: the model's shape.
        progress: receives a sentence if something changes.
    """
    if MODEL not in recipe.options:
        return recipe
    most, update = architecture.context, dict[str, Any]()
    shipped = is_shipped(recipe)
    for part, key in CONTEXTS:
        settings = getattr(recipe.settings, part)
        context = (settings and settings.context) or most
        if (part, key) not in recipe.options and (context > most or (shipped and context < most)):
            update[part] = settings.model_copy(update={key: most})
    latency = recipe.settings.latency
    lengths = {"prompts": _up_to(latency.prompts, most), "contexts": _up_to(latency.contexts, most - DECODED)}
    shorter = LatencySettings.model_validate(latency.model_dump() | lengths)
    if shorter != latency:
        update["latency"] = shorter
    if update:
        progress.notice(f"the model has a context of {most:,} tokens, the recipe is for another: {most:,} is taken")
    return replace(recipe, settings=recipe.settings.model_copy(update=update))


def is_shipped(recipe: Recipe) -> bool:
    """Say whether a recipe ships with the package, so that its contexts are meant to fill that of the model."""
    return recipe.path in shipped_recipes().values()


def _up_to(lengths: list[int] | None, most: int) -> list[int] | None:
    """Return the lengths that the model can take; None, which stands for the default lengths, if it can take none."""
    return [length for length in lengths or () if length <= most] or None
