"""A study file: a recipe, and the sizes, families, seeds and revisions that it is applied to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from pythia_quant.core.errors import RecipeError, StudyError, nearest, without_links
from pythia_quant.core.settings import Name, Settings
from pythia_quant.core.text import short
from pythia_quant.model import suite
from pythia_quant.recipe.recipe import Recipe, load_recipe
from pythia_quant.recipe.set_keys import set_keys
from pythia_quant.recipe.yaml_lines import Keys, error_at, load_located, located_error

BY_SIZE = "by-size"
"""The recipe that stands for the shipped recipe of each source's own size."""
FAMILIES = {"plain": "", "deduped": "-deduped", "v0": "-v0", "deduped-v0": "-deduped-v0"}
"""The families of the suite by the names that a study gives them."""
PLACE = "{revision}"
"""What stands in a model's name for its revision, where each revision is a folder or a repository of its own."""

Keep = Literal["results", "artifacts"]


class SourceSettings(Settings):
    """Checkpoints: of the suite, by `sizes`, `families` and `seeds`; or of one `model`, with labels for the table.

    Attributes:
        sizes: sizes of the suite, such as ``160m``.
        families: families of the suite.
        seeds: the training seeds of PolyPythias; 0 is the model of the suite itself.
        seeds_of: what these seeds change: the whole ``run``, only the first ``weight`` values, or the ``data``'s order.
        model: a folder, a repository, or a name with ``{revision}`` in it.
        size: what the table calls the size of `model`.
        family: what the table calls the family of `model`.
        seed: the training seed of `model`.
        tokens_per_step: the tokens of one training step of `model`.
        revisions: revisions and ranges, as ``--revision`` takes them.
        log_spaced: take only so many of the revisions, at about equal distances of the logarithm of their steps.
    """

    sizes: list[Name] = Field(default_factory=list)
    families: list[Literal["plain", "deduped", "v0", "deduped-v0"]] = Field(default=["plain"], min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    seeds_of: suite.SeedKind = "run"
    model: Name | None = None
    size: Name | None = None
    family: Name | None = None
    seed: int | None = Field(default=None, ge=0)
    tokens_per_step: int | None = Field(default=None, ge=1)
    revisions: Name = "main"
    log_spaced: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _of_the_suite_or_one_model(self) -> SourceSettings:
        if (self.model is None) == (not self.sizes):
            raise PydanticCustomError("source", "give either sizes of the suite, or one model")
        labels = [name for name in ("size", "family", "seed", "tokens_per_step") if getattr(self, name) is not None]
        if self.sizes and labels:
            raise PydanticCustomError("source", "{label} describes a model; of sizes it is known", {"label": labels[0]})
        return self


class StudySettings(Settings):
    """The content of a study file. See docs/studies.md.

    Attributes:
        recipe: a recipe file, the name of one that ships with the package, or ``by-size``.
        settings: values that replace the recipe's, by their keys.
        variants: the variants of the recipe; all by default.
        sources: the checkpoints.
        floor: also measure the source in fp16, the floor of every drift.
        lambada: also measure LAMBADA, where the recipe names it.
        keep: only the results, or the artifacts, too.
        device: where all but ONNX runs.
        threads: the threads of one job. Sums depend on it in the last bits, so it does not follow the machine.
    """

    schema_version: Literal[1] = Field(alias="schema")
    recipe: Name
    settings: dict[str, Any] = Field(default_factory=dict)
    variants: list[Name] | None = Field(default=None, min_length=1)
    sources: list[SourceSettings] = Field(min_length=1)
    floor: bool = True
    lambada: bool = False
    keep: Keep = "results"
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(default=1, ge=1, le=4096)


@dataclass(frozen=True)
class Study:
    """A validated study file.

    Attributes:
        name: the file's name without its ending.
        path: the file.
        settings: its content.
        lines: the line of every key.
    """

    name: str
    path: Path
    settings: StudySettings
    lines: dict[Keys, int]

    def error(self, keys: Keys, message: str) -> StudyError:
        """Make an error that points at a key of the file, or at the nearest above it."""
        located = error_at(self.path, self.lines, keys, message)
        return StudyError(located.what, where=located.where, hint=located.hint)

    def recipe_of(self, size: str) -> Recipe:
        """Return the recipe for sources of a size, with the study's settings.

        Raises:
            StudyError: there is no such recipe, or a setting cannot be used.
        """
        name = f"pythia-{size}" if self.settings.recipe == BY_SIZE else self.settings.recipe
        here = self.path.parent / name
        with self._blaming("recipe"):
            recipe = load_recipe(here if here.is_file() else name)
        with self._blaming("settings"):
            recipe = set_keys(recipe, self.settings.settings)
        with self._blaming("variants"):
            recipe.variants(self.settings.variants)
        return recipe

    @contextmanager
    def _blaming(self, key: str) -> Iterator[None]:
        """Turn an error of a recipe into one that points at a key of the study."""
        try:
            yield
        except RecipeError as error:
            raise self.error((key,), f"{error.what} ({error.where})" if error.where else error.what) from error


def shipped_studies() -> dict[str, Path]:
    """Return the studies that ship with the package, by name."""
    folder = Path(str(files("pythia_quant") / "sweep" / "presets"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_study(path: str | Path) -> Study:
    """Read a study file.

    Raises:
        StudyError: the file is not a study; the message names file, line and key.
    """
    file = without_links(Path(path))
    try:
        data, lines = load_located(file)
    except RecipeError as error:
        raise StudyError(error.what, where=error.where, hint=error.hint) from error
    if not isinstance(data, dict):
        raise StudyError("a study is a mapping of keys", where=f"{file}:1", hint="docs/studies.md has one")
    try:
        settings = StudySettings.model_validate(data)
    except ValidationError as error:
        located = located_error(file, lines, error.errors(include_url=False)[0], StudySettings)
        raise StudyError(located.what, where=located.where, hint=located.hint) from error
    study = Study(file.name.removesuffix(file.suffix), file, settings, lines)
    _check(study)
    return study


def load_preset(name: str) -> Study:
    """Read a study that ships with the package.

    Raises:
        StudyError: there is none of this name.
    """
    presets = shipped_studies()
    if name not in presets:
        raise StudyError(f"there is no study {short(name)}", where="--preset", hint=nearest(name, presets))
    return load_study(presets[name])


def _check(study: Study) -> None:
    """Refuse sizes and seeds that the suite does not have."""
    known = list(suite.SIZES)
    for index, source in enumerate(study.settings.sources):
        for size in source.sizes:
            if size not in known:
                message = f"{short(size)} is no size of the suite; {nearest(size, known)}"
                raise study.error(("sources", index, "sizes"), message)
        if study.settings.recipe == BY_SIZE and not source.sizes and source.size not in known:
            message = "recipe: by-size needs the size of each model, one of the suite's"
            raise study.error(("sources", index, "size"), message)
