"""Import bitsandbytes so that it downloads no code: on some CPUs it would fetch a kernel from the hub and run it."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.tensor_files import AGAIN, NAME, ArtifactConfig
from pythia_quant.recipe.variants import BnbSettings

_FETCHER = "kernels"


def bitsandbytes() -> Any:
    """Return the bitsandbytes module, bound to the kernels it was installed with."""
    modules: dict[str, Any] = sys.modules
    before = {_FETCHER: modules[_FETCHER]} if _FETCHER in modules else {}
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns that there is nothing to fetch with
    modules[_FETCHER] = None  # makes the import of it fail, for which bitsandbytes has a way out
    try:
        return import_module("bitsandbytes")
    finally:
        del modules[_FETCHER]
        modules.update(before)


def multiplies_in_bf16(device: str) -> bool:
    """Say whether bitsandbytes rounds the factors of products to bf16, whatever the compute dtype.

    It does so on CPUs with AVX512-BF16 where no gradient is recorded, as its fused product has no other dtype.
    """
    # Older versions neither have the function nor round.
    supported = getattr(bitsandbytes().functional, "has_avx512bf16", None)
    return device == "cpu" and supported is not None and bool(supported())


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
    """Return the settings that config.json stands for; it does not say whether layers are equalized.

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
