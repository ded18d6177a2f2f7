"""What a conversion will do, and what one should know of it, known before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.artifacts.needs import PROBE_TOKENS, PROBE_WINDOWS, check_needs, conversion_needs
from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.format import Costs, Format
from pythia_quant.formats.table import format_of
from pythia_quant.model.source import Checkpoint
from pythia_quant.texts.windows import Tokens

FEW_TOKENS = 10
"""Calibration tokens an input of the widest matrix, below which solving gains much from more."""


@dataclass(frozen=True)
class Plan:
    """What a conversion needs.

    Attributes:
        inputs: the recipe with its source and texts.
        variant: the variant's name in the recipe.
        settings: the variant's settings.
        format: the variant's format.
        target: the target folder.
    """

    inputs: Inputs
    variant: str
    settings: VariantSettings
    format: Format[Any]
    target: Path

    @property
    def probe(self) -> Tokens:
        """The tokens that the check runs, int64 [windows, tokens]."""
        return self.inputs.evaluation[:PROBE_WINDOWS, :PROBE_TOKENS].copy()


def plan_conversion(inputs: Inputs, variant: str, out: Path) -> Plan:
    """Plan the conversion of one variant of a recipe; `out` is the folder that holds all artifacts."""
    settings = inputs.recipe.variants([variant])[variant]
    return Plan(inputs, variant, settings, format_of(settings), artifact_folder(out, inputs.source, variant))


def check_plan(plan: Plan) -> None:
    """Refuse a conversion without its calibration text, or without room on the disk or in memory.

    Raises:
        ArtifactError: what is missing.
    """
    if plan.inputs.calibration_record is None and plan.inputs.recipe.calibrates([plan.variant]):
        hint = f"load_inputs(recipe, only=[{plan.variant!r}])"
        raise ArtifactError("needs calibration text, and the inputs were loaded without", where=plan.variant, hint=hint)
    check_needs(needs(plan.inputs, plan.settings), plan.target)


def artifact_folder(out: Path, source: Checkpoint, variant: str) -> Path:
    """Return where a variant's artifact belongs: ``out/<source>/<revision>/<variant>``."""
    return out / source.slug / source.revision.replace("/", "--") / variant


def caveats(inputs: Inputs, settings: VariantSettings) -> list[str]:
    """Return what a user should know before a conversion: of the settings, and of the amount of calibration text."""
    found = settings.caveats()
    tokens, widest = inputs.calibration.size, inputs.source.architecture.most_inputs
    if settings.calibrates and tokens < FEW_TOKENS * widest:
        found.append(
            f"{tokens:,} calibration tokens are {tokens / widest:.1f} for each of the {widest:,} inputs of the widest "
            f"matrix; with fewer than {FEW_TOKENS}, more text or more windows drift less"
        )
    return found


def needs(inputs: Inputs, settings: VariantSettings) -> Costs:
    """Estimate the memory and the disk that a conversion takes, in bytes."""
    return conversion_needs(inputs.source.architecture, settings, inputs.calibration.size)
