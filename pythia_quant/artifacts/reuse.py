"""Decide whether an existing artifact is the one that a conversion would make now."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pythia_quant.artifacts.artifact import Artifact, open_artifact, verify_files
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.core import machine
from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.settings import VariantSettings
from pythia_quant.model.config import read_config
from pythia_quant.model.source import Source
from pythia_quant.records.manifest import CalibrationRecord
from pythia_quant.texts.windows import Tokens

CODES = "codes"
"""The key of the note in a manifest that names the artifact which the integers were taken from."""


def is_stale(target: Path, inputs: Inputs) -> bool:
    """Say whether an artifact was made from the recipe's source folder when that held another checkpoint.

    Such an artifact is out of date and can be replaced. An artifact of another folder, or of a hub, is not: it is one
    of another model.
    """
    manifest, source = open_artifact(target).manifest, inputs.source
    same = manifest.source.sha256 == source.sha256 and _config_of_artifact(target) == _config_of_source(source)
    return source.commit is None and manifest.source.model == source.model and not same


def reuse(target: Path, inputs: Inputs, settings: VariantSettings) -> Artifact:
    """Return the artifact at `target` after checking that a conversion would make the same one now.

    Raises:
        ArtifactError: the artifact has another source, other settings, or altered files.
    """
    artifact = open_artifact(target)
    manifest = artifact.manifest
    same = {
        "settings": artifact.settings == settings,
        "source weights": manifest.source.sha256 == inputs.source.sha256,
        "config.json": _config_of_artifact(target) == _config_of_source(inputs.source),
        "calibration": _content(manifest.calibration) == _content(calibration_record(inputs, settings)),
        settings.takes_codes_of() or "codes": _same_codes(artifact, inputs, settings),
        "tool": manifest.tool == machine.tool_version(),
    }
    changed = [what for what, unchanged in same.items() if not unchanged]
    if changed:
        raise ArtifactError(
            f"holds an artifact made with a different {' and '.join(changed)}",
            where=str(target),
            hint=f"convert {target.name} with --overwrite to replace it, or use another --out",
        )
    verify_files(artifact, sha256_if_changed)
    return artifact


def fingerprint(inputs: Inputs, settings: VariantSettings, probe: Tokens) -> str:
    """Return a hash of all that decides a conversion's bytes: one with the same hash can go on where it was killed."""
    import torch  # noqa: PLC0415 - heavy, and only a conversion needs it

    parts = {
        "source": inputs.source.sha256,
        "config": _config_of_source(inputs.source),
        "settings": settings.model_dump(mode="json"),
        "calibration": hashlib.sha256(inputs.calibration.tobytes()).hexdigest(),
        "probe": probe.tolist(),
        "versions": machine.library_versions() | {"pythia-quant": machine.tool_version()},
        "machine": [machine.cpu(), torch.get_num_threads(), torch.cuda.is_available()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def codes_record(solved: Artifact) -> dict[str, object]:
    """Return the note on the artifact that the integers were taken from: its variant, and the hashes of its weights."""
    weights = {name: file.sha256 for name, file in solved.manifest.files.items() if name.endswith(".safetensors")}
    return {"variant": solved.manifest.variant, "sha256": weights}


def calibration_record(inputs: Inputs, settings: VariantSettings) -> CalibrationRecord | None:
    """Return the calibration text of an artifact, or of the artifact that its integers are taken from."""
    return inputs.calibration_record if settings.reads_calibration or settings.takes_codes_of() else None


def _same_codes(artifact: Artifact, inputs: Inputs, settings: VariantSettings) -> bool:
    """Say whether a conversion would take the same integers from another variant as the artifact has.

    The other variant must have the same settings in both recipes. If its artifact still exists in the folder beside
    this one, it must be the one that the integers were taken from.
    """
    name, recorded = settings.takes_codes_of(), artifact.manifest.notes.get(CODES)
    if name is None or recorded is None:
        return name is None and recorded is None
    then, now = (recipe.settings.variants.get(name) for recipe in (artifact.recipe(), inputs.recipe))
    solved = artifact.folder.parent / name
    return then == now and (not solved.exists() or recorded == codes_record(open_artifact(solved)))


def _content(calibration: CalibrationRecord | None) -> dict[str, Any] | None:
    """Return what decides a calibration: its windows and the text's hash, but not the text's name."""
    return calibration.model_dump(exclude={"text": {"name"}}) if calibration else None


def _config_of_artifact(target: Path) -> dict[str, Any]:
    return read_config(target / "config.json", quantized=True).config()


def _config_of_source(source: Source) -> dict[str, Any]:
    """Return the fields that an artifact's config.json should have for this source, without those of a format."""
    return replace(source.architecture, tokens=source.weights.architecture.tokens).config()
