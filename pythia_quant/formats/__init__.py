"""The table of formats: a settings type, and by name the functions that write, read and run its artifacts.

The functions are imported when used, so that reading a recipe or a result needs neither torch nor a backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from pythia_quant.errors import ArtifactError
from pythia_quant.formats.bnb.settings import BnbSettings
from pythia_quant.formats.gptq.settings import GptqSettings
from pythia_quant.formats.onnx.settings import OnnxSettings
from pythia_quant.settings import VariantSettings

AnyVariant = Annotated[BnbSettings | GptqSettings | OnnxSettings, Field(discriminator="format")]
_SETTINGS: TypeAdapter[VariantSettings] = TypeAdapter(AnyVariant)


@dataclass(frozen=True)
class Format:
    """How to write, read and run one format.

    Attributes:
        write: ``Job -> Written``.
        read: ``(folder) -> WeightReader`` of the dequantized weights.
        streamed_bytes: ``(folder) -> int``, bytes of the weights that a decoded token reads: all tensors but the
            embeddings, of which it looks up a row.
        run: ``(folder, threads) -> Runtime``.
        run_layers: ``(folder, threads) -> Layered``, with one layer in memory at a time; empty where there is none.
        needs: modules that must be installed, and the extra that installs them.
        calibrates: whether the quantizer uses calibration text, and corrects biases.
        equalizes: whether layers are equalized before they are rounded, see :mod:`pythia_quant.equalize`.
        costs: ``(architecture, calibration tokens) -> (memory, disk)`` in bytes while it is written, the artifact
            itself left out; empty where that is little.
    """

    write: str
    read: str
    streamed_bytes: str
    run: str
    run_layers: str = ""
    needs: tuple[str, ...] = ()
    extra: str = ""
    calibrates: bool = False
    equalizes: bool = False
    costs: str = ""


FORMATS: dict[type[VariantSettings], Format] = {
    BnbSettings: Format(
        write="pythia_quant.formats.bnb.writer:write",
        read="pythia_quant.formats.bnb.reader:read",
        streamed_bytes="pythia_quant.formats.tensor_files:streamed_bytes",
        run="pythia_quant.runtimes.hf:open_bnb",
        needs=("bitsandbytes", "accelerate"),
        extra="bnb",
    ),
    GptqSettings: Format(
        write="pythia_quant.formats.gptq.writer:write",
        read="pythia_quant.formats.gptq.reader:read",
        streamed_bytes="pythia_quant.formats.tensor_files:streamed_bytes",
        run="pythia_quant.runtimes.int4:open_runtime",
        run_layers="pythia_quant.runtimes.torch_layers:open_gptq",
        calibrates=True,
        equalizes=True,
        costs="pythia_quant.formats.gptq.writer:costs",
    ),
    OnnxSettings: Format(
        write="pythia_quant.formats.onnx.writer:write",
        read="pythia_quant.formats.onnx.reader:read",
        streamed_bytes="pythia_quant.formats.onnx.reader:streamed_bytes",
        run="pythia_quant.runtimes.ort:open_runtime",
        run_layers="pythia_quant.runtimes.ort_layers:open_layers",
        equalizes=True,
        needs=("onnx", "onnxruntime"),
        extra="onnx",
    ),
}


def parse_settings(data: Any) -> VariantSettings:
    """Return a variant's settings from plain data, as a manifest holds them.

    Raises:
        pydantic.ValidationError: they are of no format, or not what it takes.
    """
    return _SETTINGS.validate_python(data)


def format_of(settings: VariantSettings) -> Format:
    """Return the format's entry, once what it needs is known to be installed.

    Raises:
        ArtifactError: a module is missing; the message has the command that installs it.
    """
    entry = FORMATS[type(settings)]
    missing = [module for module in entry.needs if find_spec(module) is None]
    if missing:
        raise ArtifactError(
            f"the {settings.format} format needs {' and '.join(missing)}, not installed here",
            hint=f"pip install 'pythia-quant[{entry.extra}]'",
        )
    return entry


def load(reference: str) -> Any:
    """Import the function named ``module:function``."""
    module, _, function = reference.partition(":")
    return getattr(import_module(module), function)
