"""The ``quantization_config`` of a bitsandbytes artifact: what transformers is told of how the weights are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.artifact_config import AGAIN, NAME, ArtifactConfig
from pythia_quant.recipe.variants import BnbSettings


def quantization_config(settings: BnbSettings) -> dict[str, Any]:
    """Return what stands in config.json for an artifact of these settings."""
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": settings.quant_type,
        "bnb_4bit_use_double_quant": settings.double_quant,
        "bnb_4bit_compute_dtype": settings.compute_dtype,
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": ["embed_out", "lm_head"],
    }


def settings_of(config: ArtifactConfig, folder: Path) -> BnbSettings:
    """Return the settings that config.json stands for.

    Raises:
        ArtifactError: it is not what :func:`quantization_config` gives for any: transformers would load otherwise.
    """
    fields = config.quantization
    names = {"quant_type": "quant_type", "double_quant": "use_double_quant", "compute_dtype": "compute_dtype"}
    values = {name: fields.get(f"bnb_4bit_{field}") for name, field in names.items()}
    try:
        settings = BnbSettings.model_validate({"format": "bnb"} | values)
    except ValidationError:
        settings = None
    if settings is None or fields != quantization_config(settings) or config.dtype != settings.compute_dtype:
        what = f"is not that of a bitsandbytes artifact of ours: dtype {config.dtype}, quantization_config {fields}"
        raise ArtifactError(what[:300], where=str(folder / NAME), hint=AGAIN)
    return settings
