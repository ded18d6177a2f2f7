"""Solve one layer: find integers for its four linear layers, and biases that correct the mean error of the integers.

Linear layers that read the same normalized input are solved as one matrix, with their rows below each other. Linear
layers whose results are added at once are solved with their columns side by side, so that each corrects errors of the
other. :class:`pythia_quant.model.architecture.Update` says which linear layers these are.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pythia_quant.formats.job import to_dtype
from pythia_quant.formats.solving.problem import Problem, pose
from pythia_quant.model.architecture import NORM_OF, Architecture, Update
from pythia_quant.model.forward import LayerWeights
from pythia_quant.quantizers import gptq
from pythia_quant.quantizers.calibration import Calibration, Moments, device
from pythia_quant.quantizers.grid_kind import GridKind, Stored
from pythia_quant.quantizers.token_rows import ROWS_AT_ONCE, below_each_other


@dataclass(frozen=True)
class SolvedLayer:
    """The tensors of a layer as the artifact stores them. While the layer is being solved, some are missing.

    Attributes:
        integers: the weight of each linear layer, by the linear layer's name within the layer.
        floats: gains and biases, as they are stored, by their names within the layer.
        notes: the manifest's note on each linear layer, by its name within the layer.
    """

    integers: dict[str, Stored]
    floats: dict[str, Tensor]
    notes: dict[str, dict[str, Any]]

    def weights(self) -> dict[str, Tensor]:
        """Return the fp32 tensors that a reader of the artifact will get, by their names within the layer."""
        dequantized = {f"{name}.weight": quantized.dequantize() for name, quantized in self.integers.items()}
        return dequantized | {name: tensor.float() for name, tensor in self.floats.items()}

    def __or__(self, other: SolvedLayer) -> SolvedLayer:
        """Return the tensors and notes of both."""
        return SolvedLayer(self.integers | other.integers, self.floats | other.floats, self.notes | other.notes)


@dataclass(frozen=True)
class Method:
    """How layers are solved.

    Attributes:
        options: how a weight is rounded.
        correction: what is corrected: nothing; by biases, the mean error of a linear layer's outputs; or in full, the
            errors of earlier layers, too.
        fisher: whether codes are moved by what errors cost the whole model, see
            :mod:`pythia_quant.quantizers.fisher`.
        decides: whether held-out windows decide the ridge of the correction, and with it the damping.
        floats: the dtype that gains and biases are stored in.
        grids: returns the kind of grids of a linear layer by its name, such as ``gpt_neox.layers.0.mlp.dense_4h_to_h``
            or ``embed_out``; None if the options say it for all.
    """

    options: gptq.Options
    correction: Literal["none", "bias", "full"]
    decides: bool = False
    fisher: bool = False
    floats: torch.dtype = torch.float16
    grids: Callable[[str], GridKind] | None = None

    def kind(self, name: str) -> GridKind:
        """Return the kind of grids of a linear layer, by its name."""
        return self.options.kind if self.grids is None else self.grids(name)

    @property
    def centers(self) -> bool:
        """Whether biases correct the mean error."""
        return self.correction != "none"

    @property
    def corrects_earlier(self) -> bool:
        """Whether a layer also corrects the errors of the layers before it."""
        return self.correction == "full"


def solve_layer(
    method: Method,
    architecture: Architecture,
    before: Path,
    following: Path,
    layer: LayerWeights,
    where: str,
    outputs: list[tuple[Tensor, Tensor]] | None = None,
) -> SolvedLayer:
    """Solve a layer, and run the calibration windows through it.

    Args:
        method: how to solve it.
        architecture: the shape of the model.
        before: the folder of the windows before the layer.
        following: an empty folder for the windows after the layer.
        layer: the layer's fp32 tensors, equalized.
        where: the layer's name, for errors.
        outputs: what errors of the outputs of each update's inner and outer linear layers cost together, see
            :mod:`pythia_quant.quantizers.fisher`; None if all cost the same.

    Raises:
        QuantizationError: inputs are not finite, no damping helps, or a bias or scale does not fit its dtype.
    """
    solver = _Solver(method, _on_device(layer), where)
    solved = solver.norms()
    between = [following / f"after-update-{number}" for number in range(1, len(architecture.updates))]
    steps = zip(architecture.updates, pairwise((before, *between, following)), strict=True)
    for number, (update, (start, end)) in enumerate(steps):
        end.mkdir(exist_ok=True)
        costs = [each.to(device()) for each in outputs[number]] if outputs else [None, None]
        windows = Calibration(architecture, start, end, method.decides)
        solved |= solver.inner(update, windows, solver.current_layer(solved), costs[0])
        solved |= solver.outer(update, windows, solver.current_layer(solved), costs[1])
        windows.advance(update, solver.current_layer(solved))
    for folder in between:
        shutil.rmtree(folder)
    return solved


@dataclass(frozen=True)
class _Solver:
    """Solves a layer, some of its linear layers at a time.

    Attributes:
        method: how to solve it.
        layer: the layer's fp32 tensors, equalized, on the device that computes.
        where: the layer's name, for errors.
    """

    method: Method
    layer: LayerWeights
    where: str

    def norms(self) -> SolvedLayer:
        """Return the gains and biases of the norms as the artifact stores them."""
        gains = {name: tensor for name, tensor in self.layer.items() if "layernorm" in name}
        return SolvedLayer({}, self._stored(gains), {})

    def current_layer(self, solved: SolvedLayer) -> dict[str, Tensor]:
        """Return the layer with the solved tensors as a reader will get them, and the others as they were."""
        return {**self.layer, **_on_device(solved.weights())}

    def inner(self, update: Update, windows: Calibration, current: LayerWeights, outputs: Tensor | None) -> SolvedLayer:
        """Solve an update's inner linear layers, those of the same kind of grids with their rows below each other.

        Args:
            update: the update.
            windows: the windows before the update.
            current: the result of :meth:`current_layer` for all that is solved so far.
            outputs: what errors of the outputs cost together, on the device that computes; None if all cost the same.
        """
        norm = NORM_OF[update.inner[0]]
        moments = windows.normalized(norm, self.layer, current, centered=self.method.centers)
        weight = torch.cat(list(self._weights(update.inner).values()))
        problem = self._problem(moments, weight, len(weight), update.inner)
        solved = SolvedLayer({}, {}, {})
        sizes = [len(part) for part in self._weights(update.inner).values()]
        places = dict(zip(update.inner, torch.arange(len(weight)).split(sizes), strict=True))
        for kind, names in self._by_kind(update.inner):
            rows = torch.cat([places[name] for name in names])
            part = None if outputs is None else outputs[rows][:, rows]
            solved |= self._inner(names, kind, moments, problem, part)
        return solved

    def _inner(
        self, names: tuple[str, ...], kind: GridKind, moments: Moments, problem: Problem, outputs: Tensor | None
    ) -> SolvedLayer:
        weights, corrects = self._weights(names), self.method.corrects_earlier
        weight = torch.cat(list(weights.values()))
        cross = weight @ moments.cross() if corrects else None
        solution = problem.solve(weight, cross, kinds=(kind,), outputs=outputs)
        shift = self._shift(solution, weight, moments, weight @ moments.mean_error if corrects else None)
        integers, biases, notes = {}, {}, {}
        start = 0
        for name, part in weights.items():
            rows = slice(start, start + len(part))
            integers[name] = solution.parts[0].rows(rows).cpu()
            notes[name] = error_note([solution], rows)
            biases[f"{name}.bias"] = self.layer[f"{name}.bias"] + shift[rows]
            start = rows.stop
        return SolvedLayer(integers, self._stored(biases), notes)

    def outer(self, update: Update, windows: Calibration, current: LayerWeights, outputs: Tensor | None) -> SolvedLayer:
        """Solve an update's outer linear layers, their columns side by side; for the arguments see :meth:`inner`."""
        moments = windows.outer(update, self.layer, current, centered=self.method.centers)
        weights = self._weights(update.outer)
        widths = tuple(part.shape[1] for part in weights.values())
        weight = torch.cat(list(weights.values()), dim=1)
        kinds = tuple(self._kind(name) for name in update.outer)
        problem = self._problem(moments, None, len(weight), update.outer)
        cross = moments.cross() if self.method.corrects_earlier else None
        solution = problem.solve(weight, cross, widths, kinds, outputs)
        shift = self._shift(solution, weight, moments, moments.mean_error if self.method.corrects_earlier else None)
        integers, biases, notes = {}, {}, {}
        for number, name in enumerate(weights):
            integers[name] = solution.parts[number].cpu()
            notes[name] = error_note([solution], slice(None))
            # The whole shift is added to the first bias, because equalizing has added the other biases to it.
            biases[f"{name}.bias"] = self.layer[f"{name}.bias"] + (0 if number else shift)
        return SolvedLayer(integers, self._stored(biases), notes)

    def _kind(self, name: str) -> GridKind:
        return self.method.kind(f"{self.where}.{name}")

    def _by_kind(self, names: tuple[str, ...]) -> list[tuple[GridKind, tuple[str, ...]]]:
        kinds: list[GridKind] = []
        for name in names:
            if self._kind(name) not in kinds:
                kinds.append(self._kind(name))
        return [(kind, tuple(name for name in names if self._kind(name) == kind)) for kind in kinds]

    def _weights(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        return {name: self.layer[f"{name}.weight"] for name in names}

    def _problem(self, moments: Moments, weight: Tensor | None, outputs: int, names: tuple[str, ...]) -> Problem:
        return pose(f"{self.where}.{' and '.join(names)}", moments, self.method.options, weight, outputs)

    def _shift(self, solution: gptq.Solution, weight: Tensor, moments: Moments, errors: Tensor | None) -> Tensor:
        """Return the change of the bias with which the mean of the outputs is exact, fp32 [out]."""
        if not self.method.centers:
            return torch.zeros(len(weight), device=weight.device)
        shift = (weight - solution.dequantize()) @ moments.mean
        return shift if errors is None else shift + errors

    def _stored(self, tensors: LayerWeights) -> dict[str, Tensor]:
        return {
            name: to_dtype(f"{self.where}.{name}", tensor.cpu(), self.method.floats) for name, tensor in tensors.items()
        }


def _on_device(weights: LayerWeights) -> dict[str, Tensor]:
    return {name: tensor.to(device()) for name, tensor in weights.items()}


def solve_head(
    method: Method, calibration: Calibration, weight: Tensor, norm: LayerWeights, stored_norm: LayerWeights
) -> tuple[Stored, dict[str, Any]]:
    """Quantize the head for the final hidden states, some rows at a time.

    Args:
        method: how to solve it.
        calibration: the windows after the last layer.
        weight: the head, fp32 [vocabulary, width].
        norm: the gain and the bias of the final norm, fp32, under the name ``final_layer_norm``.
        stored_norm: the same tensors as a reader of the artifact will get them.

    Returns:
        The integers, and the note for the manifest.

    Raises:
        QuantizationError: inputs are not finite, no damping helps, or a scale does not fit fp16.
    """
    moments = calibration.normalized("final_layer_norm", norm, stored_norm, centered=False)  # the head has no bias
    problem = pose("embed_out", moments, method.options, weight, len(weight))
    cross = moments.cross()
    kind = method.kind("embed_out")
    solutions: list[gptq.Solution] = []
    for rows in weight.split(ROWS_AT_ONCE):
        part = rows.to(calibration.device)
        solutions.append(problem.solve(part, part @ cross if method.corrects_earlier else None, (), (kind,)))
    return below_each_other([solution.parts[0].cpu() for solution in solutions]), error_note(solutions, slice(None))


def error_note(solutions: list[gptq.Solution], rows: slice) -> dict[str, Any]:
    """Return the manifest's note on some outputs of a linear layer.

    Errors are sums of squared errors over sums of squared outputs.

    Args:
        solutions: the solutions of parts of the weight.
        rows: the outputs, by their index in each solution.
    """
    # If all outputs are 0, so are the errors.
    outputs = sum(float(solution.outputs[rows].sum()) for solution in solutions) or 1.0
    return {
        "relative_error": sum(float(solution.error[rows].sum()) for solution in solutions) / outputs,
        "relative_error_rounding": sum(float(solution.rounding_error[rows].sum()) for solution in solutions) / outputs,
        "damping": max(solution.damping for solution in solutions),
        "ridge": max(solution.ridge for solution in solutions),
    }
