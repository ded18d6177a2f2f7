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
    entry = FORMATS[settings.format]
    missing = [module for module in entry.needs if find_spec(module) is None]
    if missing:
        raise ArtifactError(
            f"the {settings.format} format needs {' and '.join(missing)}, not installed here",
            hint=f"pip install 'pythia-quant[{entry.extra}]'",
        )
    return entry
