"""Replace single settings of a recipe by their keys, as ``--set variants.gptq-int4.bits=3`` does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from pythia_quant.core.errors import RecipeError, nearest
from pythia_quant.core.text import printable, short
from pythia_quant.recipe.recipe import Recipe, RecipeSettings, with_absolute_files
from pythia_quant.recipe.yaml_lines import Keys, located_error, parse_value


def set_keys(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with other values of some settings, checked as a recipe file is.

    Args:
        recipe: the recipe, which is not changed.
        values: the values by their keys, joined by points: ``variants.gptq-int4.bits``. A value may be a mapping of
            several settings, such as that of a new variant; None removes the setting, so that it has its default.

    Raises:
        RecipeError: there is no such key, or the value cannot be used; the message names the key.
    """
    if not values:
        return recipe
    data = recipe.settings.model_dump(mode="json", by_alias=True)
    options: dict[Keys, str] = {}
    for key, value in values.items():
        keys = _keys(key, data)
        options[keys] = f"--set {key}"
        data["basis"].pop(key, None)  # it says why the setting had the value that is replaced
        place = data
        for part in keys[:-1]:
            place = place[part]
        if value is None:
            if place and keys[-1] not in place:
                raise RecipeError(f"unknown key {short(keys[-1])}; {nearest(keys[-1], place)}", where=options[keys])
            place.pop(keys[-1], None)
        else:
            place[keys[-1]] = value
    try:
        settings = RecipeSettings.model_validate(_without_none(data))
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        located = located_error(recipe.path, {}, details, RecipeSettings)
        what = located.what if len(values) > 1 else located.what.removeprefix(f"{next(iter(values))}: ")
        raise RecipeError(what, where=", ".join(options.values())) from error
    changed = with_absolute_files(settings, recipe.path.parent)
    return replace(recipe, settings=changed, options={**recipe.options, **options})


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the keys and values of texts such as ``variants.gptq-int4.bits=3``; a value is YAML.

    Raises:
        RecipeError: a text has no key and value, names a key twice, or its value is not plain YAML.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not key.strip() or not sign:
            hint = "give one such as variants.gptq-int4.bits=3"
            raise RecipeError("is no key with a value", where=f"--set {printable(assignment)[:80]}", hint=hint)
        if key.strip() in values:
            raise RecipeError("is given twice", where=f"--set {key.strip()}")
        values[key.strip()] = parse_value(text, f"--set {printable(key.strip())[:80]}")
    return values


def _keys(key: str, data: dict[str, Any]) -> tuple[str, ...]:
    """Split a key at its points. A name that has points itself, such as a tensor's, is taken where it is there."""
    place: Any = data
    keys: list[str] = []
    rest = key
    while True:
        if not isinstance(place, dict):
            raise RecipeError(f"{'.'.join(keys)} has no settings below it", where=f"--set {key}")
        known = [name for name in place if rest == name or rest.startswith(f"{name}.")]
        name = max(known, key=len) if known else rest.partition(".")[0]
        keys.append(name)
        rest = rest.removeprefix(name).removeprefix(".")
        if not rest:
            return tuple(keys)
        if not known and keys[:-1] == ["variants"]:
            raise RecipeError(f"there is no variant {short(name)}; {nearest(name, place)}", where=f"--set {key}")
        if place.get(name) is None:
            place[name] = {}
        place = place[name]


def _without_none(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_none(value) for key, value in data.items() if value is not None}
    return data
