"""The tables of formats and of the kinds of artifacts that others make, by name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.bnb.foreign import ForeignBnbKind
from pythia_quant.formats.bnb.format import BnbFormat
from pythia_quant.formats.compressed_tensors.foreign import ForeignCompressedKind
from pythia_quant.formats.compressed_tensors.format import CompressedFormat
from pythia_quant.formats.foreign import ForeignKind
from pythia_quant.formats.foreign_plain import PlainKind
from pythia_quant.formats.format import Format
from pythia_quant.formats.gguf.foreign import ForeignGgufKind
from pythia_quant.formats.gguf.format import GgufFormat
from pythia_quant.formats.gptq.foreign import ForeignGptqKind
from pythia_quant.formats.gptq.format import GptqFormat
from pythia_quant.formats.onnx.foreign import ForeignOnnxKind
from pythia_quant.formats.onnx.format import OnnxFormat

FORMATS: dict[str, Format[Any]] = {
    "bnb": BnbFormat(),
    "gptq": GptqFormat(),
    "onnx": OnnxFormat(),
    "gguf": GgufFormat(),
    "compressed-tensors": CompressedFormat(),
}

_KINDS = (
    ForeignGptqKind(), ForeignCompressedKind(), ForeignBnbKind(), PlainKind(), ForeignOnnxKind(), ForeignGgufKind(),
)  # fmt: skip
FOREIGN: dict[str, ForeignKind] = {kind.name: kind for kind in _KINDS}
"""What others make and :mod:`pythia_quant.artifacts.foreign` opens: whoever adds a kind adds it here."""


def recognize(path: Path) -> ForeignKind | None:
    """Return the kind of a folder or file that others made; None if it is none that is known.

    Raises:
        ArtifactError: it is damaged, or names code to run.
    """
    return next((kind for kind in FOREIGN.values() if kind.recognizes(path)), None)


def foreign_kind(name: str) -> ForeignKind:
    """Return a kind of foreign artifact, after checking that the modules which it needs are installed.

    Raises:
        ArtifactError: a module is missing; the message has the command that installs it.
    """
    kind = FOREIGN[name]
    if missing := [module for module in kind.needs if find_spec(module) is None]:
        raise ArtifactError(
            f"an artifact of the kind {name} needs {' and '.join(missing)}, not installed here",
            hint=f"pip install {' '.join(missing)}",
        )
    return kind


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
