"""Convert several variants of a recipe as steps of a long job, for Python programs and for the command line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.artifacts.needs import check_needs
from pythia_quant.artifacts.plan import artifact_folder, needs
from pythia_quant.bench.durations import conversion_name, conversion_steps, work_of
from pythia_quant.core.progress import Steps
from pythia_quant.core.settings import VariantSettings
from pythia_quant.core.time_left import ExpectedStep
from pythia_quant.formats.packages import missing_of_variants, refuse_missing
from pythia_quant.recipe.recipe import Recipe

Announce = Callable[[str, Inputs, VariantSettings], object]
"""A function that is called with a variant's name, the inputs and the variant's settings, before it is converted."""


def open_inputs(recipe: Recipe, names: list[str], out: Path, steps: Steps, announce: Announce | None = None) -> Inputs:
    """Open what variants need, after all checks that are possible before the first of them takes its time.

    Raises:
        ArtifactError: a package is missing, or disk or memory are too small for an artifact that is not there.
        PythiaQuantError: see :func:`~pythia_quant.artifacts.inputs.load_inputs`.
    """
    refuse_missing(missing_of_variants(recipe.needed(names)))
    with steps.step("opening source and texts") as step:
        inputs = load_inputs(recipe, step, only=names)
    for name, settings in _missing(inputs, names, out).items():
        # Each conversion checks it again, because others fill disk and memory, too.
        check_needs(needs(inputs, settings), artifact_folder(out, inputs.source, name))
        if announce:
            announce(name, inputs, settings)
    return inputs


def _missing(inputs: Inputs, names: list[str], out: Path) -> dict[str, VariantSettings]:
    """Return the variants without an artifact, among `names` and those whose integers such variants take."""

    def is_absent(name: str) -> bool:
        return not artifact_folder(out, inputs.source, name).exists()

    missing = list(filter(is_absent, names))
    needed = inputs.recipe.needed(missing) if missing else {}  # of no names, all variants would be needed
    return {name: settings for name, settings in needed.items() if is_absent(name)}


def expected_conversions(inputs: Inputs, names: list[str], out: Path, *, overwrite: bool) -> list[ExpectedStep]:
    """Return the steps of :func:`convert_each` with what they may take."""
    there = {name for name in names if _is_there(inputs, name, out, overwrite)}
    return conversion_steps(work_of(inputs), inputs.recipe.variants(names), there)


def convert_each(inputs: Inputs, names: list[str], out: Path, steps: Steps, *, overwrite: bool) -> list[Artifact]:
    """Convert variants. Those that take another one's integers are last, so that it is not replaced after them.

    Raises:
        PythiaQuantError: a conversion failed and left nothing; the artifacts of variants before it stay.
    """
    variants = inputs.recipe.variants(names)
    order = sorted(names, key=lambda name: variants[name].takes_codes_of() is not None)
    artifacts = {name: _convert(inputs, name, out, steps, overwrite) for name in order}
    return [artifacts[name] for name in names]


def _convert(inputs: Inputs, name: str, out: Path, steps: Steps, overwrite: bool) -> Artifact:
    began = datetime.now(UTC)
    with steps.step(conversion_name(name, is_there=_is_there(inputs, name, out, overwrite))) as step:
        artifact = convert(inputs, name, out, overwrite=overwrite, progress=step)
        how = "is there already" if artifact.manifest.created < began else "converted"
        step.conclude(f"{name} {how}", f"{artifact.manifest.bits_per_weight:.2f} bits")
    return artifact


def _is_there(inputs: Inputs, name: str, out: Path, overwrite: bool) -> bool:
    return not overwrite and artifact_folder(out, inputs.source, name).exists()
