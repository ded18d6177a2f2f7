"""A recipe: one source, a calibration text, an evaluation protocol, named variants and the gates they must pass."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pythia_quant.core.errors import RecipeError, nearest, without_links
from pythia_quant.core.settings import MOST_TOKENS, MOST_WINDOWS, Name, Settings, VariantSettings
from pythia_quant.core.text import short
from pythia_quant.model import suite
from pythia_quant.model.architecture import Architecture
from pythia_quant.recipe.codes import codes_misfit
from pythia_quant.recipe.measurement import DECODED, GateSettings, LambadaSettings, LatencySettings, TaskSettings
from pythia_quant.recipe.variants import AnyVariant
from pythia_quant.recipe.yaml_lines import Keys, error_at, load_located, located_error

SOURCE_ROWS = ("torch-fp16", "torch-bf16", "torch-fp32")
"""The names of the rows that the source has beside the variants in every table, as transformers runs it."""

BASES = ("measured", "derived", "assumed")

T = TypeVar("T", "TextSettings", "LambadaSettings")

_FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}[A-Za-z0-9_-]|[A-Za-z0-9_]")
# Names of devices on Windows, with any ending, and of files that stand beside the artifacts.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|results.*\.json|.*\.lock", re.IGNORECASE)


class SourceSettings(Settings):
    """Which checkpoint: a hub repository, a folder, or ``builtin:demo``."""

    model: Name
    revision: Name = "main"


class TextSettings(Settings):
    """Which text: exactly one of a built-in one, a local file, or a file in a hub dataset repository."""

    builtin: Literal["training", "held-out"] | None = None
    file: Name | None = None
    dataset: Name | None = None
    revision: Name = "main"
    column: Name = "text"
    join: str = "\n\n"

    @model_validator(mode="after")
    def _names_one_text(self) -> TextSettings:
        if (self.builtin is None) == (self.file is None) or (self.dataset and not self.file):
            raise PydanticCustomError("text", "give one of: builtin, file, or dataset with file")
        return self


class CalibrationSettings(Settings):
    """Text for quantizers that solve against inputs, drawn as windows of the model's context."""

    text: TextSettings
    windows: int = Field(default=128, ge=1, le=MOST_WINDOWS)
    context: int | None = Field(default=None, ge=2, le=MOST_TOKENS)
    seed: int = Field(default=0, ge=0, lt=2**63)


class EvaluationSettings(Settings):
    """Text to measure on. `context` defaults to the model's, `windows` to all of them."""

    text: TextSettings
    context: int | None = Field(default=None, ge=2, le=MOST_TOKENS)
    windows: int | None = Field(default=None, ge=2, le=MOST_WINDOWS)


class RecipeSettings(Settings):
    """The content of a recipe file. See docs/recipes.md."""

    schema_version: Literal[1] = Field(alias="schema")
    source: SourceSettings
    calibration: CalibrationSettings | None = None
    evaluation: EvaluationSettings
    tasks: TaskSettings = TaskSettings()
    latency: LatencySettings = LatencySettings()
    variants: dict[str, AnyVariant] = Field(min_length=1)
    gates: dict[str, GateSettings] = Field(default_factory=dict)
    basis: dict[str, str] = Field(default_factory=dict)

    @field_validator("variants")
    @classmethod
    def _names_are_folder_names(cls, variants: dict[str, AnyVariant]) -> dict[str, AnyVariant]:
        first_names: dict[str, str] = {}
        for name in variants:
            if problem := _name_problem(name, first_names.setdefault(name.casefold(), name)):
                raise PydanticCustomError("name", "{problem}", {"key": name, "problem": problem})
        return variants

    @model_validator(mode="after")
    def _codes_fit(self) -> RecipeSettings:
        for name, variant in self.variants.items():
            if misfit := codes_misfit(variant, self.variants):
                keys = ("variants", name, *misfit.keys)
                raise PydanticCustomError("codes", "{why}", {"keys": keys, "why": misfit.why})
        return self

    @model_validator(mode="after")
    def _gates_and_basis_name_what_exists(self) -> RecipeSettings:
        for name in self.gates:
            if name not in self.variants:
                raise PydanticCustomError(
                    "gates",
                    "gates for '{key}', which is no variant; {hint}",
                    {"under": "gates", "key": name, "hint": nearest(name, self.variants)},
                )
        known = set(_leaf_paths(self.model_dump(by_alias=True)))
        for name, reason in self.basis.items():
            problem = None
            if name not in known:
                problem = f"'{name}' is no setting of this recipe; {nearest(name, known)}"
            elif reason.partition(":")[0] not in BASES or not reason.partition(":")[2].strip():
                problem = f"say '<{' | '.join(BASES)}>: <reason>'"
            if problem:
                raise PydanticCustomError("basis", "{problem}", {"under": "basis", "key": name, "problem": problem})
        return self


def _name_problem(name: str, first: str) -> str:
    """Return why no variant can have this name, or nothing; `first` is the first name that differs only in case."""
    if name in SOURCE_ROWS:
        return f"'{name}' is the name of the source's own row in every table; choose another"
    if not _FOLDER_NAME.fullmatch(name):
        return (
            f"the variant name {short(name)} becomes a folder's: up to 64 letters, digits, '-', '_' and '.', with no "
            "'-' or '.' in front and no '.' at the end"
        )
    if _RESERVED.fullmatch(name):
        return f"'{name}' is the name of something else in a folder; choose another"
    return f"'{name}' and '{first}' are one folder on some systems; choose another" if name != first else ""


@dataclass(frozen=True)
class Recipe:
    """A validated recipe, and where its settings come from.

    Attributes:
        name: the file's name without its ending.
        path: the recipe file, or the manifest that records the recipe.
        settings: the content, with absolute paths of local files.
        lines: the line of every key in the file.
        options: the option of the command line that replaced a setting, by the setting's key.
    """

    name: str
    path: Path
    settings: RecipeSettings
    lines: dict[Keys, int] = field(default_factory=dict, repr=False)
    options: Mapping[Keys, str] = field(default_factory=dict)

    def canonical(self) -> dict[str, Any]:
        """Return the content as plain data with all defaults, as a manifest records it."""
        return self.settings.model_dump(mode="json", by_alias=True, exclude_none=True)

    @property
    def id(self) -> str:
        """Twelve hex digits that are equal for two recipes exactly when their canonical forms are."""
        canonical = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def variants(self, only: list[str] | None = None) -> dict[str, VariantSettings]:
        """Return the variants, or those named in `only`.

        Raises:
            RecipeError: a name in `only` is not in the recipe.
        """
        for name in only or ():
            if name not in self.settings.variants:
                hint = nearest(name, self.settings.variants)
                raise RecipeError(f"there is no variant {name!r}", where=str(self.path), hint=hint)
        chosen = only or list(self.settings.variants)
        return {name: settings for name, settings in self.settings.variants.items() if name in chosen}

    def needed(self, only: list[str] | None = None) -> dict[str, VariantSettings]:
        """Return the variants, or those named in `only` and the variants whose integers they take.

        Raises:
            RecipeError: a name in `only` is not in the recipe.
        """
        chosen = self.variants(only)
        solved = [codes for variant in chosen.values() if (codes := variant.takes_codes_of())]
        return self.variants([*chosen, *solved])

    def calibrates(self, only: list[str] | None = None) -> bool:
        """Say whether the variants, those in `only` if given, or the variants whose integers they take, calibrate."""
        return any(variant.reads_calibration for variant in self.needed(only).values())

    def check_fits(self, architecture: Architecture, only: list[str] | None = None) -> None:
        """Refuse settings that do not suit the model's shape, such as a group size that does not divide its width.

        Args:
            architecture: the model's shape.
            only: the variants to check, and those whose integers they take; all by default, none if the list is empty.

        Raises:
            RecipeError: a setting does not fit; the message names the file, line and key, and choices that fit.
        """
        for name, variant in ({} if only == [] else self.needed(only)).items():
            misfit = variant.fits(architecture.width, architecture.mlp_width, architecture.layers)
            if misfit:
                raise self.error(("variants", name, *misfit.keys), misfit.why)
        for part in ("calibration", "evaluation"):
            context = getattr(getattr(self.settings, part), "context", None)
            if context is not None and context > architecture.context:
                raise self.error((part, "context"), f"{context} exceeds the model's context {architecture.context}")
        for part, room in (("prompts", 0), ("contexts", DECODED)):
            longest = max(getattr(self.settings.latency, part) or (0,))
            if longest and longest + room > architecture.context:
                decoded = f" and {room} decoded tokens" if room else ""
                message = f"{longest}{decoded} exceed the model's context {architecture.context}"
                raise self.error(("latency", part), message)

    def check_suite(self) -> None:
        """Check the settings against the shape of a model of the suite, without opening the model."""
        member = suite.find(self.settings.source.model)
        if member is not None:
            size = member.size
            self.check_fits(
                Architecture(
                    layers=size.layers, width=size.width, heads=size.heads, mlp_width=4 * size.width,
                    vocabulary=size.vocabulary, context=suite.CONTEXT, rotary_size=size.width // size.heads // 4,
                    rotary_base=10000.0, norm_epsilon=1e-5,
                )
            )  # fmt: skip
            suite.check_revision(self.settings.source.model, self.settings.source.revision)

    def error(self, keys: Keys, message: str) -> RecipeError:
        """Make an error that points at a key of the file, or the nearest above it, or the option that replaced it."""
        if keys in self.options:
            return RecipeError(message, where=self.options[keys])
        return error_at(self.path, self.lines, keys, message)


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe from a file, or one that ships with the package by its name (``pythia-160m``, ``demo``).

    Raises:
        RecipeError: the file is not a recipe; the message names the file, line and key.
    """
    path = _recipe_path(str(name))
    return parse_recipe(*load_located(path), path)


def parse_recipe(data: Any, lines: dict[Keys, int], path: Path) -> Recipe:
    """Make a recipe of a file's plain data and the line of every key; see :func:`load_recipe`."""
    if not isinstance(data, dict):
        raise RecipeError("a recipe is a mapping of keys", where=f"{path}:1", hint="see pythia-quant recipes show demo")
    try:
        settings = RecipeSettings.model_validate(data)
    except ValidationError as error:
        raise located_error(path, lines, error.errors(include_url=False)[0], RecipeSettings) from error
    return Recipe(path.name.removesuffix(path.suffix), path, with_absolute_files(settings, path.parent), lines)


def with_absolute_files(settings: RecipeSettings, folder: Path) -> RecipeSettings:
    """Return a recipe's content with absolute paths; paths in a recipe file are relative to the file's folder."""
    update: dict[str, Any] = {}
    for part in ("evaluation", "calibration"):
        if (part_settings := getattr(settings, part)) is not None:
            update[part] = part_settings.model_copy(update={"text": _absolute(part_settings.text, folder)})
    if settings.tasks.lambada is not None:
        update["tasks"] = TaskSettings(lambada=_absolute(settings.tasks.lambada, folder))
    return settings.model_copy(update=update)


def _absolute(text: T, folder: Path) -> T:
    if text.file is None or text.dataset is not None:
        return text
    return text.model_copy(update={"file": str(without_links(folder / text.file))})


def _recipe_path(name: str) -> Path:
    shipped = shipped_recipes()
    if name in shipped:  # also where a folder is called so: a clone of that model, its artifacts
        return shipped[name]
    if os.path.exists(name):  # noqa: PTH110 - Path's raises where a name is too long
        return Path(name)
    stem = PurePath(name).name.removesuffix(".yaml")  # not .stem: a name such as pythia-1.4b has a dot
    if stem in shipped:
        return shipped[stem]
    if not name.endswith((".yaml", ".yml")):
        raise RecipeError(f"there is no recipe {short(name)}", hint=f"give a file; by name, {nearest(stem, shipped)}")
    return Path(name)


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the recipes that ship with the package, by name, from the package or its checkout."""
    package = Path(str(files("pythia_quant")))
    installed = package / "recipes"
    folder = installed if installed.is_dir() else package.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=_by_size)}


def _by_size(path: Path) -> tuple[float, str]:
    digits = path.stem.removeprefix("pythia-")
    scale = {"m": 1e6, "b": 1e9}.get(digits[-1:], 0)
    return (float(digits[:-1]) * scale, "") if scale and digits[:-1].replace(".", "").isdigit() else (0, path.stem)


def _leaf_paths(data: Any, prefix: str = "") -> list[str]:
    if not isinstance(data, dict):
        return [prefix]
    return [leaf for key, value in data.items() for leaf in _leaf_paths(value, f"{prefix}.{key}" if prefix else key)]
