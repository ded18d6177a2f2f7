"""The inputs of each linear layer on the calibration windows: their mean and second moments, in the quantized model.

The hidden states are in files: each update of a layer reads the states before it, and writes the states after it.
"""

from __future__ import annotations

import math
from functools import reduce
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pythia_quant.core import compat
from pythia_quant.core.array_file import load_array
from pythia_quant.core.errors import QuantizationError
from pythia_quant.core.precision import rounded_products
from pythia_quant.model.architecture import Architecture, Update
from pythia_quant.model.forward import LayerWeights, linear, normalize, outer_input, parts, update_forward

_COLUMNS_AT_ONCE = 512


class Moments:
    """The moments of a linear layer's inputs, and of the errors that the layer should make up for.

    Moments about the mean suit a layer whose bias may change, because a bias makes up for a constant error. Sums are
    taken about the mean of the first inputs: if they were taken about 0, fp32 would lose the digits of a spread that is
    far smaller than the mean. With this fp32 is enough: fp64 gave the same drift on a trained model of the 14m shape.

    Args:
        width: the number of inputs of the layer.
        errors: the number of errors of a token.
        device: the device of the sums.
        centered: whether moments are about the mean, or about 0.

    Attributes:
        count: the number of tokens added.
        bad: the number of tokens with an input or an error that was not finite.
    """

    def __init__(
        self, width: int, errors: int = 0, device: torch.device | str = "cpu", *, centered: bool = True
    ) -> None:
        self.count = self.bad = 0
        self._held: list[tuple[Tensor, Tensor]] = []
        self._centered = centered
        self._shift = torch.zeros(width, device=device)
        self._sum = torch.zeros(width, device=device)
        self._squares = torch.zeros(width, width, device=device)
        self._error_sum = torch.zeros(errors, device=device)
        self._products = torch.zeros(errors, width, device=device)

    def add(self, inputs: Tensor, errors: Tensor | None = None) -> None:
        """Add inputs, fp32 [..., width], and the errors at those tokens, fp32 [..., errors]."""
        rows = inputs.flatten(0, -2)
        finite = rows.sum(1).isfinite()
        if self._centered and not self.count:
            self._shift = rows.mean(0)
        rows = rows - self._shift
        self.count += len(rows)
        self._sum += rows.sum(0)
        for start in range(0, rows.shape[1], _COLUMNS_AT_ONCE):  # the upper triangle of a symmetric matrix
            stop = start + _COLUMNS_AT_ONCE
            self._squares[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])
        if errors is not None:
            wrong = errors.flatten(0, -2)
            finite &= wrong.sum(1).isfinite()
            self._error_sum += wrong.sum(0)
            self._products.addmm_(wrong.T, rows)
        self.bad += len(finite) - int(finite.sum())

    def hold(self, inputs: Tensor, errors: Tensor) -> None:
        """Keep inputs and errors, as :meth:`add` takes them, out of the sums until :meth:`release`."""
        self._held.append((inputs.flatten(0, -2), errors.flatten(0, -2)))

    def held(self) -> tuple[Tensor, Tensor] | None:
        """Return what is held, fp32 [tokens, width] and [tokens, errors], about the means of the sums; None if nothing.

        If moments are about 0, so are these.
        """
        if not self._held:
            return None
        inputs, errors = (torch.cat(part) for part in zip(*self._held, strict=True))
        return (inputs - self.mean, errors - self.mean_error) if self._centered else (inputs, errors)

    def release(self) -> None:
        """Add what is held to the sums."""
        held, self._held = self._held, []
        for inputs, errors in held:
            self.add(inputs, errors)

    @property
    def bytes_a_token(self) -> int:
        """What the inputs and errors of a token take in memory."""
        return 4 * (len(self._sum) + len(self._error_sum))

    @property
    def mean(self) -> Tensor:
        """The mean of the inputs, fp32 [width]."""
        return self._shift + self._sum / max(self.count, 1)

    @property
    def mean_error(self) -> Tensor:
        """The mean of the errors, fp32 [errors]."""
        return self._error_sum / max(self.count, 1)

    def hessian(self, *, finished: bool = True) -> Tensor:
        """Return Σ x xᵀ, fp32 [width, width]: up to a factor, the second derivative of the squared output error.

        Args:
            finished: nothing will be added afterwards; so the result takes the memory of the sums.
        """
        hessian = self._squares if finished else self._squares.clone()
        for start in range(0, len(hessian), _COLUMNS_AT_ONCE):
            stop = start + _COLUMNS_AT_ONCE
            hessian[stop:, start:stop] = hessian[start:stop, stop:].T
        if finished:
            self._squares = torch.empty(0)
        return hessian.addr_(self._sum, self._sum, alpha=self._minus)

    def cross(self) -> Tensor:
        """Return Σ e xᵀ, fp32 [errors, width]; if the inputs are about their mean, so are the errors."""
        return torch.addr(self._products, self._error_sum, self._sum, alpha=self._minus)

    @property
    def _minus(self) -> float:
        return -1 / max(self.count, 1) if self._centered else 0.0


KEPT_BYTES = 500_000_000
"""Inputs of the outer linear layers up to this size are kept in memory; larger ones are computed again."""

AGAIN = "it is left of an interrupted conversion: remove the folder to begin that anew"
"""The hint of errors about files of states that cannot be read."""

_ORIGINAL, _QUANTIZED = "original.npy", "quantized.npy"


HELD_BYTES = 250_000_000
"""The most that inputs and errors of held-out windows may take in memory."""


def held_out(windows: int, tokens: int, bytes_a_token: int) -> range:
    """Return the windows that are held out: up to sixteen, evenly spread, and at most a quarter of them, at least one.

    Where there is a single window, none is.

    Args:
        windows: the number of windows.
        tokens: the tokens of a window.
        bytes_a_token: what the inputs and errors of a token take in memory.
    """
    if windows < 2:
        return range(0)
    count = max(1, min(windows // 4, 16, HELD_BYTES // (tokens * bytes_a_token)))
    step = windows // count
    return range(step // 2, step * count, step)


def device() -> torch.device:
    """Return the device that layers are run and solved on: a CUDA device if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def begin(folder: Path, ids: Tensor, table: Tensor, original: Tensor | None = None) -> None:
    """Write the hidden states before the first layer, which are the embeddings of the windows.

    Args:
        folder: the folder to write into.
        ids: int64 [windows, tokens].
        table: the embedding matrix of the quantized model.
        original: that of the original model; None if its states are not needed.
    """
    for name, matrix in ((_QUANTIZED, table), (_ORIGINAL, original)):
        if matrix is not None:
            np.save(folder / name, F.embedding(ids, matrix).half().numpy())


def in_bf16(weights: LayerWeights) -> LayerWeights:
    """Return a layer with its linear layers in bf16 if products in bf16 are faster here."""
    if not compat.has_bf16_products():
        return weights
    return {name: tensor.bfloat16() if tensor.ndim == 2 else tensor for name, tensor in weights.items()}


class Calibration:
    """Runs the windows through one update of a layer: sums up the inputs of its linear layers, and writes the states.

    Normalizations that read the same states must be equal, as :func:`pythia_quant.model.equalize.equalize` makes them.

    Args:
        architecture: the model's shape.
        folder: the folder with the hidden states before the update.
        following: an empty folder for the hidden states after the update.
        holds: whether moments hold some windows out, if errors of earlier layers are known.
    """

    def __init__(self, architecture: Architecture, folder: Path, following: Path, holds: bool = False) -> None:
        self.architecture, self.device, self._holds = architecture, device(), holds
        width = architecture.width
        self._quantized = _open(folder / _QUANTIZED, width)
        self._original = _open(folder / _ORIGINAL, width) if (folder / _ORIGINAL).exists() else None
        self._following = following
        self._outer: list[Tensor] = []  # the inputs of the outer linear layers, kept for advance() if they are small

    @rounded_products()
    def normalized(self, norm: str, layer: LayerWeights, quantized: LayerWeights, *, centered: bool) -> Moments:
        """Return the moments of a normalization's results in the quantized model, and of their errors.

        The errors are the results in the original model minus those in the quantized model.

        Args:
            norm: the name of the normalization.
            layer: tensors with those of the original normalization, fp32.
            quantized: tensors with those of the normalization as it will be stored.
            centered: whether to take moments about the mean.
        """
        width = self.architecture.width
        moments = Moments(width, width if self._original is not None else 0, self.device, centered=centered)
        for rows in self._parts():
            inputs = normalize(self.architecture, quantized, norm, self._load(self._quantized, rows))
            if self._original is None:
                moments.add(inputs)
                continue
            errors = normalize(self.architecture, layer, norm, self._load(self._original, rows)) - inputs
            self._take(moments, rows, inputs, errors)
        return moments

    @rounded_products()
    def outer(self, update: Update, layer: LayerWeights, quantized: LayerWeights, *, centered: bool) -> Moments:
        """Return the moments of the inputs, side by side, of the update's outer linear layers in the quantized model.

        The errors are the original model's hidden states after the update minus those that the quantized model would
        have with the original outer linear layers. The original model's states are also written.
        """
        width, after = self.architecture.width, None
        if self._original is not None:
            after = self._new(_ORIGINAL)
        size = sum(layer[f"{name}.weight"].shape[1] for name in update.outer)
        moments = Moments(size, width if after is not None else 0, self.device, centered=centered)
        layer, quantized = in_bf16(layer), in_bf16(quantized)
        for rows in self._parts():
            hidden = self._load(self._quantized, rows)
            read = [outer_input(self.architecture, quantized, name, hidden) for name in update.outer]
            errors = None
            if self._original is not None and after is not None:
                expected = update_forward(self.architecture, layer, update, self._load(self._original, rows))
                after[rows] = expected.half().cpu().numpy()
                errors = expected - hidden
                for name, inputs in zip(update.outer, read, strict=True):
                    errors -= linear(layer, name, inputs)
            together = torch.cat(read, dim=-1)
            if errors is None:
                moments.add(together)
            else:
                self._take(moments, rows, together, errors)
            if self._tokens * size * 2 <= KEPT_BYTES:
                self._outer.append(together.bfloat16())
        return moments

    @rounded_products()
    def advance(self, update: Update, quantized: LayerWeights) -> None:
        """Write the quantized model's hidden states after the update; `quantized` are its weights as stored."""
        after, quantized = self._new(_QUANTIZED), in_bf16(quantized)
        sizes = [quantized[f"{name}.weight"].shape[1] for name in update.outer]
        for index, rows in enumerate(self._parts()):
            hidden = self._load(self._quantized, rows)
            if self._outer:
                read = zip(update.outer, self._outer[index].split(sizes, -1), strict=True)
                hidden += reduce(torch.add, (linear(quantized, name, inputs) for name, inputs in read))
            else:
                hidden = update_forward(self.architecture, quantized, update, hidden)
            after[rows] = hidden.half().cpu().numpy()

    def _take(self, moments: Moments, rows: slice, inputs: Tensor, errors: Tensor) -> None:
        """Add these windows to the moments, and hold some of them out."""
        windows, length, _ = self._quantized.shape
        held = held_out(windows, length, moments.bytes_a_token) if self._holds else ()
        out = torch.tensor([index in held for index in range(windows)[rows]])
        if not out.any():
            moments.add(inputs, errors)
            return
        moments.hold(inputs[out], errors[out])
        if not out.all():
            moments.add(inputs[~out], errors[~out])

    @property
    def _tokens(self) -> int:
        windows, length, _ = self._quantized.shape
        return int(windows * length)

    def _parts(self) -> list[slice]:
        return parts(*self._quantized.shape[:2])

    def _load(self, states: NDArray[np.float16], rows: slice) -> Tensor:
        return torch.from_numpy(states[rows]).to(self.device, torch.float32)

    def _new(self, name: str) -> _StatesFile:
        return _StatesFile(self._following / name, self._quantized.shape)


class _StatesFile:
    """A new .npy file of hidden states, fp16, to which windows are assigned.

    The file is written, not mapped: if the disk is full, a store to a mapped page ends the process without a message.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._path, self._window_bytes = path, 2 * math.prod(shape[1:])
        with path.open("wb") as file:
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)),
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(file, header)
            self._start = file.tell()

    def __setitem__(self, rows: slice, states: NDArray[np.float16]) -> None:
        with self._path.open("r+b") as file:
            file.seek(self._start + rows.start * self._window_bytes)
            file.write(np.ascontiguousarray(states).data)


def _open(path: Path, width: int) -> NDArray[np.float16]:
    return load_array(path, np.float16, (None, None, width), QuantizationError, AGAIN, mapped=True)
