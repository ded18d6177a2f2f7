"""The settings of the GGUF format: the type of each tensor, and how its integers are found."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pythia_quant.core.settings import Damping, Misfit, VariantSettings
from pythia_quant.model.architecture import EMBEDDING, HEAD
from pythia_quant.recipe.tensor_keys import IN_LAYERS, beyond, conflict, parse_name, refuse_unknown

GgufType = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0"]

FLOATS = ("f32", "f16", "bf16")
_BITS = {  # of a code, and of a weight in the file, with its share of scales and minimums
    "f32": (32, 32.0), "f16": (16, 16.0), "bf16": (16, 16.0), "q8_0": (8, 8.5), "q6_k": (6, 6.5625), "q5_k": (5, 5.5),
    "q5_1": (5, 6.0), "q5_0": (5, 5.5), "q4_k": (4, 4.5), "q4_1": (4, 5.0), "q4_0": (4, 4.5),
}  # fmt: skip
# Of a width that 256 does not divide: the type with blocks of 32 that llama-quantize takes, too.
_INSTEAD: dict[str, GgufType] = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}


class GgufSettings(VariantSettings):
    """The ggml type of each tensor; gains and biases are in fp32.

    With `quantizer` gptq, layers and head are solved on calibration text in the grids of their types. If `codes` names
    a GPTQ variant, the layers' integers are taken from it; the recipe checks that both settings agree.
    """

    format: Literal["gguf"]
    codes: str | None = None
    weights: GgufType = "q4_0"
    embeddings: GgufType = "q8_0"
    head: GgufType = "q8_0"
    tensors: dict[str, GgufType] = Field(default_factory=dict)
    quantizer: Literal["gptq", "nearest"] = "gptq"
    activation_order: Literal["none", "static"] = "static"
    scale_search: bool = True
    sweeps: int = Field(default=2, ge=0, le=100)
    fisher: bool = False
    correction: Literal["none", "bias", "full"] = "full"
    damping: Damping = "auto"

    @property
    def calibrates(self) -> bool:
        return self.quantizer == "gptq" and self.codes is None and self.quantizes_layers()

    def linear_type(self, layer: int, name: str, inputs: int) -> GgufType:
        """Return the type of a linear layer, such as ``attention.dense``, of a layer, with so many inputs."""
        chosen = self.tensors.get(f"layers.{layer}.{name}", self.tensors.get(name, self.weights))
        return fitting(chosen, inputs)

    def head_type(self, width: int) -> GgufType:
        """Return the type of the head of a model of that width."""
        return fitting(self.tensors.get("head", self.head), width)

    def embeddings_type(self, width: int) -> GgufType:
        """Return the type of the embedding matrix of a model of that width."""
        return fitting(self.tensors.get("embeddings", self.embeddings), width)

    def quantizes_layers(self) -> bool:
        """Return whether any linear layer of a layer is stored as integers."""
        types = {self.weights, *(chosen for key, chosen in self.tensors.items() if key not in ("head", "embeddings"))}
        return not types <= set(FLOATS)

    def takes_codes_of(self) -> str | None:
        return self.codes

    def code_bits(self, name: str) -> int:
        if name in (EMBEDDING, HEAD):
            return bits_of(self.embeddings_type(256) if name == EMBEDDING else self.head_type(256))
        return bits_of(self.linear_type(*parse_name(name), 256))

    def stored_bits(self) -> tuple[float, float]:
        linear = sum(share * stored_bits_of(self.linear_type(0, name, 256)) for name, share in IN_LAYERS.items())
        return linear, (stored_bits_of(self.embeddings_type(256)) + stored_bits_of(self.head_type(256))) / 2

    def fits(self, width: int, mlp_width: int, layers: int) -> Misfit | None:
        if misfit := beyond(self.tensors, layers):
            return misfit
        if width % 32 or mlp_width % 32:
            why = f"blocks of 32 do not divide the model's widths {width} and {mlp_width}; say f16 for every tensor"
            kinds = {self.weights, self.embeddings, self.head, *self.tensors.values()}
            return None if kinds <= set(FLOATS) else Misfit(("weights",), why)
        return None

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> GgufSettings:
        refuse_unknown(self.tensors)
        if self.fisher and not (self.calibrates and self.sweeps):
            raise conflict("codes are moved in the sweeps of quantizer: gptq, of which there are none", "fisher")
        return self


def bits_of(kind: GgufType) -> int:
    """Return the bits of a code of a type, or of a floating-point number."""
    return _BITS[kind][0]


def stored_bits_of(kind: GgufType) -> float:
    """Return the bits that a weight takes in the file, with its share of scales and minimums."""
    return _BITS[kind][1]


def fitting(kind: GgufType, inputs: int) -> GgufType:
    """Return the type, or the one that takes its place where its blocks of 256 do not divide the inputs."""
    return kind if inputs % 256 == 0 else _INSTEAD.get(kind, kind)
