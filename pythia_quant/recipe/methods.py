"""Make a recipe of a model and the name of a method, for users who have no recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pythia_quant.core.errors import RecipeError, nearest
from pythia_quant.core.text import short
from pythia_quant.model import suite
from pythia_quant.model.source_name import DEMO, repository_of
from pythia_quant.recipe.overrides import MODEL, override
from pythia_quant.recipe.recipe import Recipe, RecipeSettings, load_recipe, shipped_recipes
from pythia_quant.recipe.variants import parse_variant
from pythia_quant.recipe.yaml_lines import Keys, located_error

METHODS: dict[str, dict[str, Any]] = {
    "bnb-nf4": {"format": "bnb"},
    "bnb-fp4": {"format": "bnb", "quant_type": "fp4"},
    "gptq-int4": {"format": "gptq"},
    "gptq-int2": {"format": "gptq", "bits": 2},
    "gptq-int3": {"format": "gptq", "bits": 3},
    "gptq-int8": {"format": "gptq", "bits": 8},
    "ct-int4": {"format": "compressed-tensors", "codes": "gptq-int4"},
    "ct-int8": {"format": "compressed-tensors", "codes": "gptq-int8", "bits": 8},
    "onnx-int8": {"format": "onnx"},
    "onnx-int8-dynamic": {"format": "onnx", "weights": "int8-channel"},
    "onnx-int4": {"format": "onnx", "weights": "int4", "codes": "gptq-int4", "block_size": 128},
    "onnx-small": {"format": "onnx", "embeddings": "int4", "head": "int4", "frequent_tokens": 2048},
    "onnx-fp32": {"format": "onnx", **dict.fromkeys(("weights", "activations", "embeddings", "head"), "fp32")},
    "gguf-q4": {"format": "gguf"},
    "gguf-q8": {"format": "gguf", "weights": "q8_0", "quantizer": "nearest"},
}
"""The settings of each method that differ from its format's defaults."""

DEFAULT = "gptq-int4"


def recipe_of_method(
    model: str,
    method: str = DEFAULT,
    *,
    bits: int | None = None,
    group_size: int | None = None,
    revision: str | None = None,
    text: Path | None = None,
    calibration: Path | None = None,
) -> tuple[Recipe, str]:
    """Return a recipe that quantizes a model by a method, and the name of its variant.

    Texts and settings are those of the model's own recipe where one ships with the package. Any other model is
    calibrated and measured on the text that every Python carries, so that nothing is downloaded for it.

    Args:
        model: a recipe's name such as ``demo`` or ``pythia-160m``, a folder, a hub repository or its address.
        method: a key of :data:`METHODS`.
        bits: the bits of the integers, in place of the method's.
        group_size: the weights that share a scale, in place of the method's.
        revision: a branch, tag or commit of the repository.
        text: the file of the text to evaluate on.
        calibration: the file of the text to calibrate on.

    Raises:
        RecipeError: there is no such method, or it does not have such bits or groups.
        SourceError: the model's name means nothing.
    """
    method = _with_bits(method, bits)
    base = override(recipe_of_model(model), revision=revision, text=text, calibration=calibration)
    variants = _variants(base, method, group_size)
    name = list(variants)[-1]
    data = base.canonical() | {"variants": variants, "basis": {}}
    shipped = {key: variant.model_dump(mode="json") for key, variant in base.settings.variants.items()}
    data["gates"] = {
        key: gates for key, gates in data.get("gates", {}).items() if variants.get(key) == shipped.get(key)
    }
    path = Path(f"{name}.yaml")
    try:
        settings = RecipeSettings.model_validate(data)
    except ValidationError as error:
        located = located_error(path, {}, error.errors(include_url=False)[0], RecipeSettings)
        raise RecipeError(located.what, where=_option(bits, group_size) or "--method") from error
    keys = "block_size" if settings.variants[name].format == "onnx" else "group_size"
    groups: dict[Keys, str] = {("variants", variant, keys): "--group-size" for variant in variants}
    options: dict[Keys, str] = {**base.options, **groups, MODEL: "the model's name"}
    return replace(base, name=name, path=path, settings=settings, lines={}, options=options), name


def write_recipe(recipe: Recipe) -> str:
    """Return a recipe as the text of a recipe file; local files in it have absolute paths."""
    head = "# Written by pythia-quant quantize; pythia-quant run or convert with this file repeats it.\n"
    data = recipe.settings.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    data["variants"] = recipe.canonical()["variants"]  # in full: they are what a reader looks for
    return head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def recipe_of_model(model: str) -> Recipe:
    """Return the recipe by which a model is measured unless another is named, with the model as its source.

    It is the one that ships for the model, or for the suite's models of its size; of any other model, the demo's.

    Args:
        model: a recipe's name, ``builtin:demo``, a folder, a hub repository or its address.
    """
    if model in shipped_recipes():
        return load_recipe(model)
    member = suite.find(repository_of(model)) if model != DEMO else None
    return override(load_recipe(f"pythia-{member.size.name}" if member else "demo"), model=model)


def _with_bits(method: str, bits: int | None) -> str:
    """Return the method that has these bits in place of a method's own."""
    if method not in METHODS:
        raise RecipeError(f"there is no method {short(method)}; {nearest(method, METHODS)}", where="--method")
    if bits is None:
        return method
    family = method.partition("-")[0]
    stem = f"{family}-q" if family == "gguf" else f"{family}-int"
    others = [name for name in METHODS if name.startswith(stem) and not name.endswith("dynamic")]
    if (wanted := f"{stem}{bits}") in others:
        return wanted
    if not others:
        raise RecipeError(f"{method} has 4 bits and no choice", where="--bits", hint="gptq-int4 has 2, 3, 4 or 8")
    choices = ", ".join(sorted(name.removeprefix(stem) for name in others))
    raise RecipeError(f"{family} has no {bits} bits; choose from: {choices}", where="--bits")


def _variants(base: Recipe, method: str, group_size: int | None) -> dict[str, dict[str, Any]]:
    """Return the settings of the method's variant, which is last, and before it of the one whose integers it takes."""

    def settings(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        ours = base.settings.variants.get(name)
        return (ours.model_dump(mode="json", exclude_none=True) if ours else METHODS[name]) | dict(changes)

    kind = METHODS[method]["format"]
    if group_size is None or group_size == _group_size(settings(method, {})):
        solved = METHODS[method].get("codes")
        return ({solved: settings(solved, {})} if solved else {}) | {method: settings(method, {})}
    blocks = {"bnb": "blocks of 64", "gguf": "blocks of 32"}.get(kind)
    if blocks or method == "onnx-fp32":
        fixed = f"{blocks} and no choice" if blocks else "no groups"
        raise RecipeError(f"{method} has {fixed}", where="--group-size", hint="leave it out, or choose another method")
    ending = f"-g{group_size}"
    if kind == "gptq":
        return {f"{method}{ending}": settings(method, {"group_size": group_size})}
    if solved := METHODS[method].get("codes"):
        key = "block_size" if kind == "onnx" else "group_size"
        return {
            f"{solved}{ending}": settings(solved, {"group_size": group_size}),
            f"{method}{ending}": settings(method, {key: group_size, "codes": f"{solved}{ending}"}),
        }
    return {f"{method}{ending}": settings(method, {"block_size": group_size})}


def _group_size(settings: dict[str, Any]) -> object:
    """Return the weights that share a scale, where a method's user may choose them."""
    variant = parse_variant(settings)
    return getattr(variant, "block_size" if variant.format == "onnx" else "group_size", None)


def _option(bits: int | None, group_size: int | None) -> str:
    return "--group-size" if group_size is not None else "--bits" if bits is not None else ""
