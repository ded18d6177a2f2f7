"""Solve one layer: integers for its four linear layers, and biases that make up for what the integers leave.

Linear layers that read the same normalized input are solved as one matrix, their rows below each other; those whose
results are added at once, with their columns side by side: each makes up for errors of the other. Which they are,
:class:`pythia_quant.model.architecture.Update` says.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.formats.job import to_dtype
from pythia_quant.model.architecture import NORM_OF, Architecture, Update
from pythia_quant.model.forward import LayerWeights
from pythia_quant.quantizers import gptq
from pythia_quant.quantizers.calibration import Calibration, Moments, device
from pythia_quant.quantizers.grid import Quantized
from pythia_quant.recipe.variants import GptqSettings

_HEAD_ROWS = 8192


@dataclass(frozen=True)
class SolvedLayer:
    """A layer as it is stored, or what is solved of it.

    Attributes:
        integers: of its linear layers, by their names within the layer.
        kept: fp16 gains and biases, by their names within the layer.
        notes: of each linear layer, its error for the manifest.
    """

    integers: dict[str, Quantized]
    kept: dict[str, Tensor]
    notes: dict[str, dict[str, Any]]

    def weights(self) -> dict[str, Tensor]:
        """Return what a reader will get, fp32."""
        dequantized = {f"{name}.weight": quantized.dequantize() for name, quantized in self.integers.items()}
        return dequantized | {name: tensor.float() for name, tensor in self.kept.items()}

    def __or__(self, other: SolvedLayer) -> SolvedLayer:
        """Return both."""
        return SolvedLayer(self.integers | other.integers, self.kept | other.kept, self.notes | other.notes)


def options(settings: GptqSettings) -> gptq.Options:
    """Return the settings that concern the numerics."""
    return gptq.Options(
        bits=settings.bits,
        group_size=0 if settings.group_size == "row" else settings.group_size,
        symmetric=settings.symmetric,
        activation_order=settings.activation_order,
        scale_search=settings.scale_search,
        sweeps=settings.sweeps,
        damping=settings.damping,
    )


def solve_layer(
    settings: GptqSettings, architecture: Architecture, before: Path, following: Path, layer: LayerWeights, where: str
) -> SolvedLayer:
    """Solve a layer and take the calibration windows through it.

    Args:
        settings: how.
        architecture: the model's shape.
        before: holds the windows before the layer.
        following: an empty folder for those after it.
        layer: the layer's fp32 tensors, equalized.
        where: the layer's name, for errors.

    Raises:
        QuantizationError: inputs are not finite, no damping helps, or a bias or scale does not fit fp16.
    """
    solver = _Solver(settings, _on_device(layer), where)
    solved = solver.norms()
    between = [following / f"after-update-{number}" for number in range(1, len(architecture.updates))]
    for update, (start, end) in zip(architecture.updates, pairwise((before, *between, following)), strict=True):
        end.mkdir(exist_ok=True)
        windows = Calibration(architecture, start, end)
        solved |= solver.inner(update, windows, solver.stored(solved))
        solved |= solver.outer(update, windows, solver.stored(solved))
        windows.advance(update, solver.stored(solved))
    for folder in between:
        shutil.rmtree(folder)
    return solved


@dataclass(frozen=True)
class _Solver:
    """Solves some linear layers of a layer at a time.

    Attributes:
        settings: how.
        layer: the layer's fp32 tensors, equalized, where they are computed with.
        where: the layer's name, for errors.
    """

    settings: GptqSettings
    layer: LayerWeights
    where: str

    def norms(self) -> SolvedLayer:
        """Return the norms as they are stored."""
        gains = {name: tensor for name, tensor in self.layer.items() if "layernorm" in name}
        return SolvedLayer({}, self._in_fp16(gains), {})

    def stored(self, solved: SolvedLayer) -> dict[str, Tensor]:
        """Return the layer with what is solved as it will be read, and the rest as it was."""
        return {**self.layer, **_on_device(solved.weights())}

    def inner(self, update: Update, windows: Calibration, stored: LayerWeights) -> SolvedLayer:
        """Solve an update's inner linear layers, their rows below each other.

        Args:
            update: which.
            windows: before the update.
            stored: the layer, with what is solved before as it will be read.
        """
        norm = NORM_OF[update.inner[0]]
        moments = windows.normalized(norm, self.layer, stored, centered=self._centered)
        weights = self._weights(update.inner)
        weight = torch.cat(list(weights.values()))
        solution = self._solve(weight, moments, weight @ moments.cross() if self._makes_up else None, update.inner)
        shift = self._shift(solution, weight, moments, weight @ moments.mean_error if self._makes_up else None)
        integers, biases, notes = {}, {}, {}
        start = 0
        for name, part in weights.items():
            rows = slice(start, start + len(part))
            integers[name] = solution.quantized.rows(rows).cpu()
            notes[name] = note([solution], rows)
            biases[f"{name}.bias"] = self.layer[f"{name}.bias"] + shift[rows]
            start = rows.stop
        return SolvedLayer(integers, self._in_fp16(biases), notes)

    def outer(self, update: Update, windows: Calibration, stored: LayerWeights) -> SolvedLayer:
        """Solve an update's outer linear layers, their columns side by side; for the arguments see :meth:`inner`."""
        moments = windows.outer(update, self.layer, stored, centered=self._centered)
        weights = self._weights(update.outer)
        widths = tuple(part.shape[1] for part in weights.values())
        weight = torch.cat(list(weights.values()), dim=1)
        solution = self._solve(weight, moments, moments.cross() if self._makes_up else None, update.outer, widths)
        shift = self._shift(solution, weight, moments, moments.mean_error if self._makes_up else None)
        integers, biases, notes = {}, {}, {}
        start = 0
        for name, width in zip(weights, widths, strict=True):
            integers[name] = solution.quantized.columns(slice(start, start + width)).cpu()
            notes[name] = note([solution], slice(None))
            # The first bias takes the shift of all: equalizing has added the other biases to it.
            biases[f"{name}.bias"] = self.layer[f"{name}.bias"] + (0 if start else shift)
            start += width
        return SolvedLayer(integers, self._in_fp16(biases), notes)

    @property
    def _centered(self) -> bool:
        return self.settings.correction != "none"

    @property
    def _makes_up(self) -> bool:
        """Whether to make up for the errors of the layers before."""
        return self.settings.correction == "full"

    def _weights(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        return {name: self.layer[f"{name}.weight"] for name in names}

    def _solve(
        self,
        weight: Tensor,
        moments: Moments,
        cross: Tensor | None,
        names: tuple[str, ...],
        parts: tuple[int, ...] = (),
    ) -> gptq.Solution:
        where = f"{self.where}.{' and '.join(names)}"
        check_finite(moments, where)
        return located(where, weight, moments.hessian(), options(self.settings), cross, parts)

    def _shift(self, solution: gptq.Solution, weight: Tensor, moments: Moments, errors: Tensor | None) -> Tensor:
        """Return what the bias must change by for outputs that are right on average, fp32 [out]."""
        if not self._centered:
            return torch.zeros(len(weight), device=weight.device)
        shift = (weight - solution.quantized.dequantize()) @ moments.mean
        return shift if errors is None else shift + errors

    def _in_fp16(self, tensors: LayerWeights) -> dict[str, Tensor]:
        return {name: to_dtype(f"{self.where}.{name}", tensor.cpu(), torch.float16) for name, tensor in tensors.items()}


def _on_device(weights: LayerWeights) -> dict[str, Tensor]:
    return {name: tensor.to(device()) for name, tensor in weights.items()}


def solve_head(
    settings: GptqSettings, calibration: Calibration, weight: Tensor, norm: LayerWeights, stored: LayerWeights
) -> tuple[Quantized, dict[str, Any]]:
    """Quantize the head against the final hidden states, some rows at a time.

    Args:
        settings: how.
        calibration: the windows after the last layer.
        weight: fp32 [vocabulary, width].
        norm: the final norm, named ``final_layer_norm``, fp32.
        stored: the same as it is stored.

    Returns:
        The integers, and the note for the manifest.

    Raises:
        QuantizationError: as :func:`solve_layer`.
    """
    moments = calibration.normalized("final_layer_norm", norm, stored, centered=False)  # the head has no bias
    check_finite(moments, "embed_out")
    hessian, cross = moments.hessian(), moments.cross()
    solutions: list[gptq.Solution] = []
    for rows in weight.split(_HEAD_ROWS):
        part = rows.to(calibration.device)
        errors = part @ cross if settings.correction == "full" else None
        solutions.append(located("embed_out", part, hessian, options(settings), errors, ()))
    found = [solution.quantized.cpu() for solution in solutions]
    integers = Quantized(
        settings.bits,
        codes=torch.cat([each.codes for each in found]),
        scales=torch.cat([each.scales for each in found]),
        zeros=torch.cat([each.zeros for each in found]),
        groups=found[0].groups,
    )
    return integers, note(solutions, slice(None))


def located(
    where: str,
    weight: Tensor,
    hessian: Tensor,
    chosen: gptq.Options,
    cross: Tensor | None,
    parts: tuple[int, ...],
) -> gptq.Solution:
    """Quantize a weight; an error names it.

    Raises:
        QuantizationError: see :func:`pythia_quant.quantizers.gptq.quantize`.
    """
    try:
        return gptq.quantize(weight, hessian, chosen, cross, parts)
    except QuantizationError as error:
        raise QuantizationError(error.what, where=where, hint=error.hint) from error


def check_finite(moments: Moments, where: str) -> None:
    """Refuse inputs that are not finite.

    Raises:
        QuantizationError: with the number of tokens.
    """
    if moments.bad:
        raise QuantizationError(
            f"{moments.bad:,} of {moments.count:,} calibration tokens give inputs of this layer that are not finite",
            where=where,
            hint="the checkpoint does not compute within fp16's range; use another revision",
        )


def note(solutions: list[gptq.Solution], rows: slice) -> dict[str, Any]:
    """Return what the manifest says of some outputs: their squared error over the squared outputs, both summed."""
    outputs = sum(float(solution.outputs[rows].sum()) for solution in solutions) or 1.0  # all 0: no error either
    return {
        "relative_error": sum(float(solution.error[rows].sum()) for solution in solutions) / outputs,
        "relative_error_rounding": sum(float(solution.rounding_error[rows].sum()) for solution in solutions) / outputs,
        "damping": max(solution.damping for solution in solutions),
    }
