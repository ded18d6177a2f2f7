"""The settings of every format as one type, which its field ``format`` decides."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.bnb.settings import BnbSettings
from pythia_quant.formats.gptq.settings import GptqSettings
from pythia_quant.formats.onnx.settings import OnnxSettings

AnyVariant = Annotated[BnbSettings | GptqSettings | OnnxSettings, Field(discriminator="format")]
_ADAPTER: TypeAdapter[VariantSettings] = TypeAdapter(AnyVariant)


def parse_variant(data: Any) -> VariantSettings:
    """Return a variant's settings from plain data, as a manifest holds them.

    Raises:
        pydantic.ValidationError: they are of no format, or not what it takes.
    """
    return _ADAPTER.validate_python(data)
