"""Whether an artifact that stands is the one that a conversion would make, and what makes two conversions the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pythia_quant.artifacts.artifact import Artifact, open_artifact, verify_files
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.core import machine
from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.settings import VariantSettings
from pythia_quant.model.config import read_config
from pythia_quant.model.source import Source
from pythia_quant.records.manifest import CalibrationRecord

CODES = "codes"
"""The note in a manifest that says of which artifact the integers are."""


def is_stale(target: Path, inputs: Inputs) -> bool:
    """Say whether an artifact is of the very same source folder, which has held another checkpoint since.

    That is like a file older than what it is made from. Another folder of that name is another model.
    """
    manifest, source = open_artifact(target).manifest, inputs.source
    same = manifest.source.sha256 == source.sha256 and _config_of_artifact(target) == _config_of_source(source)
    return source.commit is None and manifest.source.model == source.model and not same


def reuse(target: Path, inputs: Inputs, settings: VariantSettings) -> Artifact:
    """Return the artifact that stands at `target`, once it is known to be the one that would be made now.

    Raises:
        ArtifactError: it was made from something else, or by other settings; or a file was altered.
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


def fingerprint(inputs: Inputs, settings: VariantSettings, probe: Tensor) -> str:
    """Return what must be the same for a conversion to go on where another was killed, and end with the same bytes."""
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
    """Return what a manifest notes of the artifact whose integers were taken: its variant, the hash of its weights."""
    weights = {name: file.sha256 for name, file in solved.manifest.files.items() if name.endswith(".safetensors")}
    return {"variant": solved.manifest.variant, "sha256": weights}


def calibration_record(inputs: Inputs, settings: VariantSettings) -> CalibrationRecord | None:
    """Return what an artifact was calibrated on, itself or where its integers are from."""
    return inputs.calibration_record if settings.calibrates or settings.takes_codes_of() else None


def _same_codes(artifact: Artifact, inputs: Inputs, settings: VariantSettings) -> bool:
    """Say whether an artifact's integers are those it would be given now: of the same settings, and of what is beside.

    That may be gone: an artifact does not need the one that its integers are from.
    """
    name, recorded = settings.takes_codes_of(), artifact.manifest.notes.get(CODES)
    if name is None or recorded is None:
        return name is None and recorded is None
    then, now = (recipe.settings.variants.get(name) for recipe in (artifact.recipe(), inputs.recipe))
    beside = artifact.folder.parent / name
    return then == now and (not beside.exists() or recorded == codes_record(open_artifact(beside)))


def _content(calibration: CalibrationRecord | None) -> dict[str, Any] | None:
    """Return what decides a calibration: its windows, and the text's hash, wherever the text is."""
    return calibration.model_dump(exclude={"text": {"name"}}) if calibration else None


def _config_of_artifact(target: Path) -> dict[str, Any]:
    return read_config(target / "config.json", quantized=True).config()


def _config_of_source(source: Source) -> dict[str, Any]:
    """Return what an artifact's config.json says of the model, whatever its format adds."""
    return replace(source.architecture, tokens=source.weights.architecture.tokens).config()
