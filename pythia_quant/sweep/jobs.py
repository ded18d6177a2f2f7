"""The jobs of a study: one row of one source, with a key made of all that its numbers depend on."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pythia_quant.core.errors import StudyError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.hub_files import fetch
from pythia_quant.formats.packages import missing_of_variants, refuse_missing
from pythia_quant.recipe.measurement import LambadaSettings
from pythia_quant.recipe.overrides import is_shipped, override
from pythia_quant.recipe.recipe import SOURCE_ROWS, CalibrationSettings, EvaluationSettings, Recipe, TextSettings
from pythia_quant.sweep.sources import Identity, StudySource
from pythia_quant.sweep.study import Study

NUMERICS = 5
"""The version of everything that decides a number: quantizers, runtimes, protocols. Raised when one changes a value."""
FLOOR = SOURCE_ROWS[0]
"""The row of the source in fp16, whose drift is the floor of every other."""


@dataclass(frozen=True)
class Job:
    """One row of one source.

    Attributes:
        key: the hash of weights, tokenizer, variant, texts, protocol, and the version of our numerics.
        row: a variant, or :data:`FLOOR`.
        settings: the variant's settings as JSON data; None for the floor.
    """

    key: str
    row: str
    settings: dict[str, Any] | None


@dataclass(frozen=True)
class Group:
    """The jobs of one source, which is opened, and whose reference is computed, once for all of them.

    Attributes:
        index: the index of the source in the study.
        source: the source.
        recipe: the recipe at this source.
        jobs: the jobs.
    """

    index: int
    source: StudySource
    recipe: Recipe
    jobs: list[Job]


def groups_of(study: Study, sources: Sequence[StudySource], identities: Sequence[Identity]) -> list[Group]:
    """Return the jobs of every source, also of those that cannot be used, so that each has its lines in the table.

    Raises:
        StudyError: the recipe of a source cannot be used.
        ArtifactError: a package that a variant needs is not installed.
        PythiaQuantError: a text cannot be read.
    """
    recipes = {size: _recipe(study, size) for size in dict.fromkeys(source.size for source in sources)}
    for recipe in recipes.values():
        refuse_missing(missing_of_variants(recipe.needed(study.settings.variants)))
    groups = []
    for index, (source, identity) in enumerate(zip(sources, identities, strict=True)):
        recipe = override(recipes[source.size], model=source.model, revision=source.revision)
        groups.append(Group(index, source, recipe, list(_jobs(study, recipe, source, identity))))
    return groups


def _recipe(study: Study, size: str) -> Recipe:
    recipe = study.recipe_of(size)
    if not study.settings.lambada:
        return override(recipe, lambada=False)
    if recipe.settings.tasks.lambada is None:
        raise study.error(("lambada",), "the recipe names no passages; give settings: tasks.lambada.file")
    return recipe


def _jobs(study: Study, recipe: Recipe, source: StudySource, identity: Identity) -> Iterator[Job]:
    settings = recipe.settings
    # Without weights there is no key by content; such a job can only fail, under a key of its own.
    of_source = [identity.weights, identity.files] if identity.weights else [source.model, source.revision]
    lambada = settings.tasks.lambada
    measured = [
        _drawn(settings.evaluation), lambada and [lambada.examples, _file_hash(*_place(lambada))],
        study.settings.threads, study.settings.device, is_shipped(recipe),
    ]  # fmt: skip
    if study.settings.floor:
        yield Job(_key([NUMERICS, of_source, measured, FLOOR]), FLOOR, None)
    variants = recipe.variants(study.settings.variants)
    for name, variant in variants.items():
        solved = {other: one.model_dump(mode="json") for other, one in recipe.needed([name]).items() if other != name}
        calibration = None
        if recipe.calibrates([name]):
            if settings.calibration is None:
                raise study.error(("recipe",), f"it has no calibration text, and {name} needs one")
            calibration = _drawn(settings.calibration)
        own = variant.model_dump(mode="json")
        yield Job(_key([NUMERICS, of_source, measured, own, solved, calibration]), name, own)


def _key(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _file_hash(path: str, dataset: str | None, revision: str) -> str:
    file = Path(path) if dataset is None else fetch(dataset, path, revision, "dataset")
    if file is None or not file.exists():
        where = path if dataset is None else f"dataset {dataset}@{revision}"
        raise StudyError(f"there is no file {path}", where=where, hint="correct the recipe, or the study's settings")
    return sha256_if_changed(file)


def _place(settings: TextSettings | LambadaSettings) -> tuple[str, str | None, str]:
    return settings.file or "", settings.dataset, settings.revision


def _drawn(settings: EvaluationSettings | CalibrationSettings) -> list[Any]:
    """Return what decides the windows of a text: how they are drawn, and its content, wherever its file is."""
    text, python = settings.text, platform.python_version()
    content = f"{text.builtin} of Python {python}" if text.file is None else _file_hash(*_place(text))
    return [settings.model_dump(mode="json", exclude={"text"}), content, text.column, text.join]


def without(groups: Sequence[Group], done: frozenset[str]) -> list[Group]:
    """Return the groups with only the jobs whose keys are not in `done`, each key once; empty groups are left out."""
    seen = set(done)
    remaining = []
    for group in groups:
        jobs = [job for job in group.jobs if job.key not in seen]
        seen |= {job.key for job in jobs}
        if jobs:
            remaining.append(Group(group.index, group.source, group.recipe, jobs))
    return remaining
