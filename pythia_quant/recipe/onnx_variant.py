"""The settings of the ONNX format: how each tensor is stored, and with what activations it is multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field, model_validator

from pythia_quant.core.settings import Misfit, Settings, VariantSettings, divides
from pythia_quant.model.architecture import EMBEDDING, HEAD
from pythia_quant.recipe.tensor_keys import IN_LAYERS, beyond, conflict, parse_name, refuse_unknown

Weights = Literal["fp32", "int8", "int4", "int8-channel", "int7-channel"]
BlockSize = Literal[16, 32, 64, 128]
Activations = Literal["fp32", "int8", "int8x2"]

LAST_TOKENS = 512
"""So many rows at the end count as frequent, too: a tokenizer's added tokens are there, such as runs of blanks in code,
and after them up to 411 rows that fill up the matrix of a Pythia."""

_BITS = {"fp32": 32, "int8": 8, "int4": 4, "int8-channel": 8, "int7-channel": 7}


class TensorSettings(Settings):
    """Settings of one tensor that replace those of all tensors; None replaces nothing."""

    weights: Weights | None = None
    block_size: BlockSize | None = None
    activations: Activations | None = None


@dataclass(frozen=True)
class Choice:
    """How one tensor is stored and multiplied.

    Attributes:
        weights: fp32, integers in blocks along the input, or integers with one scale per output channel.
        block_size: the number of weights that share a scale; 0 if there are no blocks.
        activations: fp32, or integers. Those that multiply blocks are int8 with a scale for each token and block, or
            int8x2, the sum of two such terms. Those that multiply channels are uint8 with a scale for each token.
    """

    weights: Weights
    block_size: int
    activations: Activations

    @property
    def in_blocks(self) -> bool:
        """Whether the weights are integers in blocks."""
        return self.weights in ("int8", "int4")

    @property
    def in_channels(self) -> bool:
        """Whether the weights are integers with a scale per output channel."""
        return self.weights in ("int8-channel", "int7-channel")

    @property
    def bits(self) -> int:
        """The bits of a weight's code, or of an fp32 weight."""
        return _BITS[self.weights]

    @property
    def stored_bits(self) -> float:
        """The bits that a weight takes in the file, with its share of the scales; codes of 7 bits take 8."""
        return (8 if self.in_channels else self.bits) + (32 / self.block_size if self.in_blocks else 0)


class OnnxSettings(VariantSettings):
    """The weights and activations of each tensor. If the layers' activations are int8, those of the head are int8x2.

    If `codes` names a GPTQ variant, the layers' integers are taken from it; the recipe checks that both settings agree.
    With `adapt`, a conversion to 8 bits stores or multiplies tensors more finely where outliers make it lose more than
    bf16 does; tensors that `tensors` names stay as they are. Embeddings and head in int4 have the rows of the first
    `frequent_tokens` tokens, and of the last ones, in int8.
    """

    format: Literal["onnx"]
    codes: str | None = None
    weights: Weights = "int8"
    block_size: BlockSize = 64
    activations: Literal["fp32", "int8"] = "int8"
    embeddings: Literal["fp32", "int8", "int4"] = "int8"
    head: Weights = "int8"
    adapt: bool = True
    frequent_tokens: int = Field(default=0, ge=0, le=1_000_000)
    tensors: dict[str, TensorSettings] = Field(default_factory=dict)

    def linear_choice(self, layer: int, name: str) -> Choice:
        """Return the choice for a linear layer, such as ``attention.dense``, of a layer."""
        return self._choice(self.weights, self.activations, name, f"layers.{layer}.{name}")

    def head_choice(self) -> Choice:
        """Return the choice for the head."""
        return self._choice(self.head, "int8x2" if self.activations == "int8" else "fp32", "head")

    def embeddings_choice(self) -> Choice:
        """Return the choice for the embedding matrix; its rows are looked up, so no activations multiply it."""
        return self._choice(self.embeddings, "fp32", "embeddings")

    @property
    def reads_calibration(self) -> bool:
        return self.head_choice().weights == "int4"

    def takes_codes_of(self) -> str | None:
        return self.codes

    def code_bits(self, name: str) -> int:
        if name in (EMBEDDING, HEAD):
            return (self.embeddings_choice() if name == EMBEDDING else self.head_choice()).bits
        return self.linear_choice(*parse_name(name)).bits

    def quantizes(self) -> bool:
        """Return whether any tensor is stored as integers."""
        kinds = {self.weights, self.embeddings, self.head, *(t.weights for t in self.tensors.values() if t.weights)}
        return kinds != {"fp32"}

    def stored_bits(self) -> tuple[float, float]:
        linear = sum(share * self.linear_choice(0, name).stored_bits for name, share in IN_LAYERS.items())
        # Of the vocabulary of the Pythias; those of 4 bits more of every frequent token.
        share = min(1.0, (self.frequent_tokens + LAST_TOKENS) / 50_304) if self.frequent_tokens else 0.0
        tables = (self.embeddings_choice(), self.head_choice())
        return linear, sum(each.stored_bits + 4 * share * (each.weights == "int4") for each in tables) / 2

    def fits(self, width: int, mlp_width: int, layers: int) -> Misfit | None:
        if misfit := beyond(self.tensors, layers):
            return misfit
        keys: dict[tuple[str, ...], int] = {
            ("tensors", pattern, "block_size"): chosen.block_size
            for pattern, chosen in self.tensors.items()
            if chosen.block_size
        }
        if self.quantizes():
            keys[("block_size",)] = self.block_size
        misfits = (divides(path, size, width, mlp_width, get_args(BlockSize)) for path, size in keys.items())
        return next(filter(None, misfits), None)

    def _choice(self, weights: Weights, activations: Activations, *patterns: str) -> Choice:
        block_size: int = self.block_size
        for pattern in patterns:
            if override := self.tensors.get(pattern):
                weights = override.weights or weights
                activations = override.activations or activations
                block_size = override.block_size or block_size
        if weights == "fp32":
            return Choice(weights, 0, "fp32")
        if weights in ("int8", "int4"):
            return Choice(weights, block_size, activations)
        return Choice(weights, 0, "int8")

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> OnnxSettings:
        refuse_unknown(self.tensors)
        for pattern, chosen in self.tensors.items():
            if pattern == "embeddings" and (chosen.activations or str(chosen.weights).endswith("-channel")):
                raise conflict("embeddings are looked up: fp32, int8 or int4 weights, no activations", "tensors")
        if self.activations == "int8" and {self.weights, self.head} == {"fp32"} and not self.tensors:
            raise conflict("int8 needs integer weights or head; with fp32 weights say activations: fp32", "activations")
        if self.frequent_tokens and "int4" not in (self.embeddings_choice().weights, self.head_choice().weights):
            raise conflict(
                "neither embeddings nor head are int4, so frequent tokens need nothing else", "frequent_tokens"
            )
        if self.activations == "fp32" and any(
            choice.in_channels for choice in (self.head_choice(), *(self.linear_choice(0, name) for name in IN_LAYERS))
        ):
            raise conflict("weights with a scale per channel are multiplied by int8 activations", "activations")
        return self
