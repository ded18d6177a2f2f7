"""A recipe with what the command line says instead, and with the context of the model that it is used on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pythia_quant.architecture import Architecture
from pythia_quant.located_yaml import Keys
from pythia_quant.measuring import DECODED, LambadaSettings, LatencySettings, TaskSettings
from pythia_quant.recipe import CalibrationSettings, Recipe, TextSettings, shipped_recipes
from pythia_quant.storage import without_links

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
    """Return the recipe with what the command line says instead, and with local files as absolute paths.

    Args:
        recipe: whose other settings stay.
        model: any name of one; see :func:`pythia_quant.source_name.parse_model`.
        revision: of a repository.
        text: to evaluate on.
        calibration: a text to calibrate on.
        lambada: its passages; False for none.
        context: tokens in a window of evaluation, and of calibration.
    """
    settings, folder = recipe.settings, recipe.path.parent
    chosen = {key: value for key, value in (("model", model), ("revision", revision)) if value}
    length = {"context": context} if context else {}
    update: dict[str, Any] = {"source": settings.source.model_copy(update=chosen)}
    evaluation = settings.evaluation
    update["evaluation"] = evaluation.model_copy(update=length | {"text": _text(evaluation.text, text, folder)})
    before = settings.calibration
    if before is not None:
        update["calibration"] = before.model_copy(update=length | {"text": _text(before.text, calibration, folder)})
    elif calibration is not None:
        update["calibration"] = CalibrationSettings(text=_file(calibration), context=context)
    wanted = None if lambada is False else settings.tasks.lambada
    if isinstance(lambada, Path):
        wanted = LambadaSettings(file=str(without_links(lambada)))
    elif wanted and not wanted.dataset:
        wanted = wanted.model_copy(update={"file": str(without_links(folder / wanted.file))})
    update["tasks"] = TaskSettings(lambada=wanted)
    options: dict[Keys, tuple[str, Any]] = {
        MODEL: ("--model", model),
        TEXT: ("--text", text),
        CALIBRATION: ("--calibration", calibration),
        LAMBADA: ("--lambada", lambada),
        **dict.fromkeys(CONTEXTS, ("--context", context)),
    }
    given = {keys: option for keys, (option, value) in options.items() if value is not None}
    return replace(recipe, settings=settings.model_copy(update=update), options={**recipe.options, **given})


def _text(before: TextSettings, given: Path | None, folder: Path) -> TextSettings:
    if given is not None:
        return _file(given)
    if before.file and not before.dataset:
        return before.model_copy(update={"file": str(without_links(folder / before.file))})
    return before


def _file(path: Path) -> TextSettings:
    return TextSettings(file=str(without_links(path)))


def without_fetched_passages(recipe: Recipe, names: list[str], notice: Callable[[str], None]) -> Recipe:
    """Return the recipe without LAMBADA where it would be the only text to fetch: all others were given as files.

    Args:
        recipe: as the command line overrides it.
        names: the chosen variants.
        notice: told that LAMBADA is left out.
    """
    lambada = recipe.settings.tasks.lambada
    texts_given = TEXT in recipe.options and (CALIBRATION in recipe.options or not recipe.calibrates(names))
    if lambada is None or not lambada.dataset or LAMBADA in recipe.options or not texts_given:
        return recipe
    notice("LAMBADA is not fetched, as the texts were given as files; --lambada FILE measures it")
    return replace(recipe, settings=recipe.settings.model_copy(update={"tasks": TaskSettings()}))


def with_context_of(recipe: Recipe, architecture: Architecture, notice: Callable[[str], None]) -> Recipe:
    """Return a recipe that fits the context of a model it was not written for: no window or prompt is longer.

    The windows of a recipe that ships with the package are the whole context of its model, and become that of another.
    Of the recipe's own model, and of what the command line says of contexts, nothing is changed.

    Args:
        recipe: as the command line overrides it.
        architecture: the model's.
        notice: told of the context that is taken.
    """
    if MODEL not in recipe.options:
        return recipe
    most, update = architecture.context, dict[str, Any]()
    shipped = recipe.path in shipped_recipes().values()
    for part, key in CONTEXTS:
        settings = getattr(recipe.settings, part)
        asked = (settings and settings.context) or most
        if (part, key) not in recipe.options and (asked > most or (shipped and asked < most)):
            update[part] = settings.model_copy(update={key: most})
    latency = recipe.settings.latency
    lengths = {"prompts": _up_to(latency.prompts, most), "contexts": _up_to(latency.contexts, most - DECODED)}
    shorter = LatencySettings.model_validate(latency.model_dump() | lengths)
    if shorter != latency:
        update["latency"] = shorter
    if update:
        notice(f"the model has a context of {most:,} tokens, the recipe is for another: {most:,} is taken")
    return replace(recipe, settings=recipe.settings.model_copy(update=update))


def _up_to(lengths: list[int] | None, most: int) -> list[int] | None:
    """Return the lengths that the model can take; None, for those of a fixed list, when it can take none."""
    return [length for length in lengths or () if length <= most] or None
