"""The table of formats by name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.bnb.format import BnbFormat
from pythia_quant.formats.format import Format
from pythia_quant.formats.gptq.format import GptqFormat
from pythia_quant.formats.onnx.format import OnnxFormat

FORMATS: dict[str, Format[Any]] = {"bnb": BnbFormat(), "gptq": GptqFormat(), "onnx": OnnxFormat()}


def format_of(settings: VariantSettings) -> Format[Any]:
    """Return the format of a variant, after checking that the modules which it needs are installed.

    Raises:
        ArtifactError: a module is missing; the message has the command that installs it.
    """
    if missing := missing_packages(settings):
        raise ArtifactError(
            f"the {settings.format} format needs {' and '.join(missing)}, not installed here",
            hint=f"pip install {' '.join(missing)}",
        )
    return FORMATS[settings.format]


def missing_packages(user: VariantSettings | str) -> list[str]:
    """Return those of the packages that a variant needs, or of one package, that are not installed."""
    needs = (user,) if isinstance(user, str) else FORMATS[user.format].needs
    return [module for module in needs if find_spec(module) is None]
