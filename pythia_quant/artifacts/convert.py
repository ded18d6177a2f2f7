"""Variant + source -> artifact: reuse the one that is there, or make it."""

from __future__ import annotations

from pathlib import Path

from pythia_quant.artifacts.artifact import Artifact, open_artifact
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.artifacts.plan import Plan, check_plan, plan_conversion
from pythia_quant.artifacts.reuse import is_stale, reuse
from pythia_quant.core.files import recover
from pythia_quant.core.process import Here, Worker
from pythia_quant.core.progress import SILENT, PartOf, Progress


def convert(
    inputs: Inputs,
    variant: str,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Convert one variant of a recipe, or return its artifact if that exists already and verifies.

    If the variant stores the integers of another variant, that variant is converted first, or its artifact verified. If
    the source is a folder and holds another checkpoint now, the artifact is replaced.

    Args:
        inputs: the recipe with its source and texts.
        variant: the name of the variant in the recipe.
        out: the folder that holds all artifacts.
        overwrite: replace this variant's artifact. The artifact that its integers are taken from is not replaced.
        progress: receives how far the work is.

    Raises:
        PythiaQuantError: the conversion failed; the target folder is as it was before.
    """
    return convert_checked_by(None, inputs, variant, Path(out), overwrite=overwrite, progress=progress)


def convert_checked_by(
    checker: Worker | Here | None, inputs: Inputs, variant: str, out: Path, *, overwrite: bool, progress: Progress
) -> Artifact:
    """Do what :func:`convert` does; `checker` reads the artifact back and runs it, a fresh process if it is None."""
    plan = plan_conversion(inputs, variant, out)
    recover(plan.target)
    if plan.target.exists() and not overwrite and not is_stale(plan.target, inputs):
        return reuse(plan.target, inputs, plan.settings)
    check_plan(plan)  # once more: other conversions may have filled the disk since the program started
    solved = _convert_codes(plan, out, progress, checker)
    from pythia_quant.artifacts.make import make  # noqa: PLC0415 - torch takes seconds to import, and reuse needs none

    make(plan, solved, progress, checker)
    return open_artifact(plan.target)


def _convert_codes(plan: Plan, out: Path, progress: Progress, checker: Worker | Here | None) -> Artifact | None:
    """Convert or verify the variant whose integers this one takes; return its artifact, or None if it takes none."""
    name = plan.settings.takes_codes_of()
    if name is None:
        return None
    return convert_checked_by(checker, plan.inputs, name, out, overwrite=False, progress=PartOf(name, progress))
