"""Quantize a single tensor as a conversion would, while all others stay as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pythia_quant.formats.gguf.writer import method_of
from pythia_quant.formats.solving.solver import Method
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, NORM_OF, Update
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import LayerWeights, read_layer
from pythia_quant.model.weights import WeightReader
from pythia_quant.quantizers import blocks, calibration, ggml, gptq, token_rows
from pythia_quant.quantizers.calibration import Calibration
from pythia_quant.quantizers.ggml_kind import kind_of
from pythia_quant.quantizers.grid_kind import GridKind, IntegerKind
from pythia_quant.recipe.gguf_variant import GgufSettings, bits_of
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.tune.choices import FLOATS, Option, onnx_choice

Settings = GgufSettings | OnnxSettings


@dataclass(frozen=True)
class Rounded:
    """A tensor as a reader of an artifact would get it.

    Attributes:
        weight: fp32 [out, in].
        shift: what the bias of a linear layer changes by, fp32 [out]; None if nothing corrects it.
    """

    weight: Tensor
    shift: Tensor | None = None


@dataclass(frozen=True)
class Inputs:
    """What a linear layer reads of the calibration text in the original model.

    Attributes:
        hessian: Σ x xᵀ, fp32 [in, in].
        mean: fp32 [in].
    """

    hessian: Tensor
    mean: Tensor


@dataclass(frozen=True)
class Rounder:
    """Rounds single tensors by a variant's settings.

    Attributes:
        settings: the variant's.
        quick: whether tensors are rounded to nearest where a conversion would solve them, which is faster by far.
    """

    settings: Settings
    quick: bool = False

    @property
    def solves(self) -> bool:
        """Whether linear layers are solved for their inputs."""
        return isinstance(self.settings, GgufSettings) and self.settings.calibrates and not self.quick

    @property
    def solves_head(self) -> bool:
        """Whether the head is solved for its inputs, in some option."""
        return self.solves or (isinstance(self.settings, OnnxSettings) and not self.quick)

    def linear(self, weight: Tensor, option: Option, inputs: Inputs | None) -> Rounded:
        """Round the weight of a linear layer, fp32 [out, in]; `inputs` are needed if :attr:`solves`."""
        if not self.solves or option in FLOATS or inputs is None:
            return Rounded(self._nearest(weight, option))
        method = self._method()
        solved = gptq.quantize(weight, inputs.hessian.clone(), method.options, kinds=(self._kind(option),)).dequantize()
        return Rounded(solved, (weight - solved) @ inputs.mean if method.centers else None)

    def head(self, weight: Tensor, option: Option, inputs: Inputs | None) -> Rounded:
        """Round the head, fp32 [vocabulary, width]."""
        solves = option not in FLOATS and inputs is not None and self.solves_head
        if isinstance(self.settings, OnnxSettings):
            solves = solves and option.startswith("int4")
        if not solves or inputs is None:
            return Rounded(self._nearest(weight, option))
        options = token_rows.OPTIONS if isinstance(self.settings, OnnxSettings) else self._method().options
        solved = token_rows.solve(weight, inputs.hessian, self._kind(option), "embed_out", options)
        return Rounded(solved.dequantize())

    def embeddings(self, table: Tensor, option: Option, first_layer: LayerWeights) -> Rounded:
        """Round the embedding matrix, fp32 [vocabulary, width]; `first_layer` has the source's fp32 tensors."""
        few_bits = option.startswith("int4")
        if isinstance(self.settings, GgufSettings):
            few_bits = self.settings.quantizer == "gptq" and bits_of(option) < 8  # type: ignore[arg-type]
        if not few_bits or self.quick or option in FLOATS:
            return Rounded(self._nearest(table, option))
        effect = token_rows.effect_of_embeddings(first_layer)
        return Rounded(token_rows.solve(table, effect, self._kind(option), EMBEDDING).dequantize())

    def _nearest(self, weight: Tensor, option: Option) -> Tensor:
        if isinstance(self.settings, GgufSettings):
            return ggml.quantize(weight, option).dequantize()
        if option in FLOATS:
            return weight
        choice = onnx_choice(option, "")
        return blocks.quantize(weight, choice.block_size, choice.bits).dequantize()

    def _kind(self, option: Option) -> GridKind:
        if isinstance(self.settings, GgufSettings):
            return kind_of(option)
        choice = onnx_choice(option, "")
        return IntegerKind(choice.bits, choice.block_size, symmetric=True)

    def _method(self) -> Method:
        if not isinstance(self.settings, GgufSettings):
            raise TypeError("only GGUF solves layers with a method of its own")
        return method_of(self.settings, {})


def equalized_layer(source: WeightReader, index: int) -> dict[str, Tensor]:
    """Read a layer of the source, fp32, and equalize it as conversions do: it computes the same."""
    layer = read_layer(source, index)
    equalize(source.architecture, layer)
    return layer


class CalibrationInputs:
    """What the linear layers of the original model read of the calibration text, one layer after another.

    Args:
        source: the source's weights.
        ids: the calibration windows, int64 [windows, tokens].
        folder: a folder for hidden states; it holds those before a layer and after it.
    """

    def __init__(self, source: WeightReader, ids: Tensor, folder: Path) -> None:
        self._source, self._folder, self._shape = source, folder, source.architecture
        self._before, self._reached = self._new("before-0"), 0
        calibration.begin(self._before, ids, source.read(EMBEDDING).float())

    def _new(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def layer(self, index: int, layer: LayerWeights, *, needed: bool) -> dict[str, Inputs]:
        """Return what each linear layer of the next layer reads, and advance; nothing if it is not `needed`.

        Args:
            index: the layer's, one more than in the last call.
            layer: its fp32 tensors, equalized.
            needed: whether to sum inputs up.
        """
        found: dict[str, Inputs] = {}
        for number, update in enumerate(self._shape.updates):
            after = self._new(f"before-{index + 1}-{number}")
            windows = Calibration(self._shape, self._before, after)
            if needed:
                found |= self._of_update(windows, update, layer)
            windows.advance(update, layer)
            _clear(self._before)
            self._before = after
        return found

    def _of_update(self, windows: Calibration, update: Update, layer: LayerWeights) -> dict[str, Inputs]:
        read = windows.normalized(NORM_OF[update.inner[0]], layer, layer, centered=True)
        mean = read.mean
        inner = Inputs(read.hessian(), mean)
        outer = windows.outer(update, layer, layer, centered=True)
        mean, hessian = outer.mean, outer.hessian()
        found, start = dict.fromkeys(update.inner, inner), 0
        for name in update.outer:
            part = slice(start, start + layer[f"{name}.weight"].shape[1])
            found[name] = Inputs(hessian[part, part].contiguous(), mean[part])
            start = part.stop
        return found

    def head(self) -> Inputs:
        """Return what the head reads, after the last layer."""
        names = ("weight", "bias")
        norm = {f"final_layer_norm.{name}": self._source.read(f"{FINAL_NORM}.{name}").float() for name in names}
        read = Calibration(self._shape, self._before, self._before).normalized(
            "final_layer_norm", norm, norm, centered=False
        )
        return Inputs(read.hessian(), torch.zeros(self._shape.width))


def _clear(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def changed_layer(layer: LayerWeights, name: str, rounded: Rounded) -> dict[str, Tensor]:
    """Return a layer, equalized, with one linear layer as it was rounded."""
    changed = {**layer, f"{name}.weight": rounded.weight}
    if rounded.shift is not None:
        changed[f"{name}.bias"] = layer[f"{name}.bias"] + rounded.shift
    return changed


def key_parts(key: str) -> tuple[int, str]:
    """Split the key of a linear layer, ``layers.3.attention.dense``, into the layer's index and its name."""
    _, index, name = key.split(".", 2)
    return int(index), name
