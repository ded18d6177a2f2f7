"""The settings of every format's variants, and the one place that parses them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from pythia_quant.core.settings import Damping, Misfit, VariantSettings, divides
from pythia_quant.model.architecture import EMBEDDING, HEAD
from pythia_quant.recipe.compressed_variant import CompressedSettings
from pythia_quant.recipe.gguf_variant import GgufSettings
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.recipe.tensor_keys import conflict


class BnbSettings(VariantSettings):
    """4-bit blocks of 64 weights, quantized by bitsandbytes (arXiv 2305.14314).

    The block size is no setting, because bitsandbytes' loader in transformers has none. Unquantized tensors are stored
    in `compute_dtype`, too: transformers 5 loads some of them in the dtype they are stored in, and refuses a mixture.
    """

    format: Literal["bnb"]
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True
    equalize: bool = True
    compute_dtype: Literal["float16", "bfloat16", "float32"] = "bfloat16"
    embeddings: Literal["unquantized"] = "unquantized"
    head: Literal["unquantized"] = "unquantized"

    def stored_bits(self) -> tuple[float, float]:
        # 64 weights share an absmax in fp32, or in a byte, of which 256 share an absmax in fp32.
        return 4 + (8 + 32 / 256 if self.double_quant else 32) / 64, 32 if self.compute_dtype == "float32" else 16

    def code_bits(self, name: str) -> int:
        unquantized = 32 if self.compute_dtype == "float32" else 16
        return unquantized if name in (EMBEDDING, HEAD) else 4


class GptqSettings(VariantSettings):
    """Integers in groups of inputs, solved column by column on calibration inputs (GPTQ, arXiv 2210.17323)."""

    format: Literal["gptq"]
    bits: Literal[2, 3, 4, 8] = 4
    group_size: Literal[32, 64, 128, "row"] = 128
    symmetric: bool = True
    activation_order: Literal["none", "static", "dynamic"] = "static"
    scale_search: bool = True
    sweeps: int = Field(default=2, ge=0, le=100)
    fisher: bool = False
    correction: Literal["none", "bias", "full"] = "full"
    damping: Damping = "auto"
    embeddings: Literal["fp16"] = "fp16"
    head: Literal["fp16", "quantized"] = "fp16"

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> GptqSettings:
        if self.fisher and not self.sweeps:
            raise conflict("codes are moved in sweeps, of which there are none", "fisher")
        return self

    @property
    def calibrates(self) -> bool:
        return True

    def stored_bits(self) -> tuple[float, float]:
        group = 128 if self.group_size == "row" else self.group_size  # no row of a model is shorter than 128
        linear = self.bits + (16 + self.bits) / group
        return linear, 16 if self.head == "fp16" else (16 + linear) / 2

    def code_bits(self, name: str) -> int:
        quantized = name != EMBEDDING and (name != HEAD or self.head == "quantized")
        return self.bits if quantized else 16

    def fits(self, width: int, mlp_width: int, layers: int) -> Misfit | None:  # noqa: ARG002
        if self.group_size == "row":
            return divides(("group_size",), 32, width, mlp_width, (32,))  # a packed word must not hold two columns
        return divides(("group_size",), self.group_size, width, mlp_width, (32, 64, 128))

    def caveats(self) -> list[str]:
        caveats = []
        if self.bits == 8:
            caveats.append(
                "no CPU kernel takes 8 bits in groups: on a CPU weights are dequantized, in our runtime to fp32"
            )
        if self.head == "quantized":
            caveats.append("transformers does not read a quantized head, and puts a random one in its place: use ours")
        if self.group_size == "row" and self.bits == 4:
            caveats.append("gptqmodel's CPU kernel takes groups of 32, 64, 128 and 256; of a longer row only ours does")
        return caveats


AnyVariant = Annotated[
    BnbSettings | GptqSettings | OnnxSettings | GgufSettings | CompressedSettings, Field(discriminator="format")
]

_ADAPTER: TypeAdapter[VariantSettings] = TypeAdapter(AnyVariant)


def parse_variant(data: Any) -> VariantSettings:
    """Return a variant's settings from plain data, as a manifest holds them.

    Raises:
        pydantic.ValidationError: the data name no format, or the format does not have such settings.
    """
    return _ADAPTER.validate_python(data)
