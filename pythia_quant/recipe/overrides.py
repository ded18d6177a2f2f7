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
        recipe: the recipe; its other settings stay.
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
    """Return the recipe without LAMBADA where it would be the only text to fetch: all others were given as files.

    Args:
        recipe: as the command line overrides it.
        names: the chosen variants.
        progress: told that LAMBADA is left out.
    """
    lambada = recipe.settings.tasks.lambada
    texts_given = TEXT in recipe.options and (CALIBRATION in recipe.options or not recipe.calibrates(names))
    if lambada is None or not lambada.dataset or LAMBADA in recipe.options or not texts_given:
        return recipe
    progress.notice("LAMBADA is not fetched, as the texts were given as files; --lambada FILE measures it")
    return replace(recipe, settings=recipe.settings.model_copy(update={"tasks": TaskSettings()}))


def with_context_of(recipe: Recipe, architecture: Architecture, progress: Progress) -> Recipe:
    """Return a recipe that fits the context of a model it was not written for: no window or prompt is longer.

    The windows of a recipe that ships with the package are the whole context of its model, and become that of another.
    Of the recipe's own model, and of what the command line says of contexts, nothing is changed.

    Args:
        recipe: as the command line overrides it.
        architecture: the model's.
        progress: told of the context that is taken.
    """
    if MODEL not in recipe.options:
        return recipe
    most, update = architecture.context, dict[str, Any]()
    shipped = recipe.path in shipped_recipes().values()
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


def _up_to(lengths: list[int] | None, most: int) -> list[int] | None:
    """Return the lengths that the model can take; None, for those of a fixed list, when it can take none."""
    return [length for length in lengths or () if length <= most] or None
