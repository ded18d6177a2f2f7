"""Derive an artifact again from its source by the recipe in its manifest, and compare every byte."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import load_inputs
from pythia_quant.core import machine
from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.files import temporary_folder
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.formats.table import format_of
from pythia_quant.model.weights import WeightReader
from pythia_quant.recipe.overrides import override


@dataclass(frozen=True)
class Derivation:
    """How an artifact compares with what its recipe makes now.

    Attributes:
        files: the number of files that were compared.
        differing: the names of the files that differ.
        tensors: of the tensors that differ, dequantized: the norm of the difference over the norm of what was made now.
        unlike: of the tensors that cannot be compared so: what is unlike, as ``has the shape 64 × 8, not 64 × 64``.
        conditions: what is not as it was recorded: versions and the processor, a sentence each.
    """

    files: int
    differing: list[str]
    tensors: dict[str, float]
    unlike: dict[str, str]
    conditions: list[str]


def rederive(artifact: Artifact, model: str | None = None, progress: Progress = SILENT) -> Derivation:
    """Convert again, into a temporary folder, and compare; for the files of the artifact itself see `verify_files`.

    Args:
        artifact: the artifact.
        model: the source; by default, the one that the manifest names, at its commit.
        progress: receives how far the conversion is.

    Raises:
        ArtifactError: the source has other weights than the manifest records.
        PythiaQuantError: the source or a text is missing, or the conversion failed.
    """
    manifest = artifact.manifest
    recorded = manifest.source
    revision = None if model else recorded.commit
    recipe = override(artifact.recipe(), model=model or recorded.model, revision=revision)
    inputs = load_inputs(recipe, progress, only=[manifest.variant])
    if inputs.source.sha256 != recorded.sha256:
        raise ArtifactError(
            f"cannot be derived from {inputs.source.model}, which has other weights now than the manifest records",
            where=str(artifact.folder),
            hint="give with --model the checkpoint that it was made from",
        )
    if recorded.commit:  # the recipe may have named a branch, and the record of a source holds that name
        inputs = replace(inputs, source=replace(inputs.source, revision=recorded.revision))
    with temporary_folder() as folder:
        made = convert(inputs, manifest.variant, folder, progress=progress)
        names = sorted(manifest.files.keys() | made.manifest.files.keys())
        differing = [name for name in names if manifest.files.get(name) != made.manifest.files.get(name)]
        tensors, unlike = compare_weights(*map(_weights, (artifact, made))) if differing else ({}, {})
    return Derivation(len(names), differing, tensors, unlike, _conditions(artifact))


def _conditions(artifact: Artifact) -> list[str]:
    then, now = artifact.manifest.versions, machine.library_versions()
    changed = [
        f"{name} {then.get(name, 'none')} then, {now.get(name, 'none')} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    for what, before, here in (
        ("program", artifact.manifest.tool, machine.tool_version()),
        ("processor", artifact.manifest.cpu, machine.cpu()),
    ):
        if before != here:
            changed.append(f"the {what}: {before} then, {here} now")
    return changed


def _weights(artifact: Artifact) -> WeightReader:
    return format_of(artifact.settings).open_weights(artifact.folder)


@torch.no_grad()
def compare_weights(there: WeightReader, here: WeightReader) -> tuple[dict[str, float], dict[str, str]]:
    """Return how much each tensor differs from what was made now, and what is unlike where values cannot be compared.

    Every tensor that one of the two has is looked at; those that do not differ are left out.

    Args:
        there: the weights of an artifact.
        here: the weights of what was made now.

    Returns:
        The norm of each difference, relative to the tensor's; sentences about tensors that only one of the two has, or
        that have other shapes.

    Raises:
        ArtifactError: a tensor cannot be read.
    """
    shapes, expected_shapes = there.architecture.tensor_shapes(), here.architecture.tensor_shapes()
    differences: dict[str, float] = {}
    unlike: dict[str, str] = {}
    for name in [*expected_shapes, *(name for name in shapes if name not in expected_shapes)]:
        if name not in shapes:
            unlike[name] = "is missing"
        elif name not in expected_shapes:
            unlike[name] = "is not of the source"
        elif shapes[name] != expected_shapes[name]:
            sizes = (" × ".join(map(str, each[name])) for each in (shapes, expected_shapes))
            unlike[name] = "has the shape {}, not {}".format(*sizes)
        else:
            expected = here.read(name).float()
            difference = torch.linalg.vector_norm(there.read(name).float() - expected)
            if difference:
                differences[name] = float(difference / torch.linalg.vector_norm(expected).clamp(min=1e-30))
    return differences, unlike


def describe(derivation: Derivation) -> str:
    """Return what came of it, in sentences."""
    if not derivation.differing:
        return f"derived again from its source: all {derivation.files} files have the same bytes"
    found = [f"{name} {what}" for name, what in derivation.unlike.items()]
    most = sorted(derivation.tensors.items(), key=lambda one: -one[1])
    found += [f"{name} differs by {size:.2g} of its norm" for name, size in most]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    values = f"of the tensors, {', '.join(found[:5])}{more}" if found else "all tensors are read as the same values"
    conditions = f"; it was made otherwise: {'; '.join(derivation.conditions)}" if derivation.conditions else ""
    return f"derived again, {', '.join(derivation.differing)} has other bytes; {values}{conditions}"


def check_derivation(artifact: Artifact, derivation: Derivation) -> None:
    """Refuse an artifact that differs from what its recipe makes.

    Raises:
        ArtifactError: a file differs; the message says which tensors do, and by how much.
    """
    if derivation.differing:
        raise ArtifactError(
            f"is not what its recipe makes here: {describe(derivation)}",
            where=str(Path(artifact.folder)),
            hint="install the versions that its manifest records; on another processor sums may differ by rounding",
        )
