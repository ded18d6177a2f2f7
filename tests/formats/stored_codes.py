"""The integers of GPTQ and ONNX files, taken out by the formats' descriptions only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from safetensors.numpy import load_file as load_numpy

from pythia_quant.formats.onnx.data_file import find_model

Array = npt.NDArray[Any]


def numbers(words: Array, bits: int) -> Array:
    """Take the numbers out of 32-bit words along the first axis, the first in a word's lowest bits."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    spread = words.view(np.uint32)[:, None, :] >> shifts[:, None] & np.uint32(2**bits - 1)
    return spread.reshape(-1, words.shape[1])


def gptq_integers(folder: Path, name: str, bits: int) -> tuple[Array, Array, Array]:
    """Return codes [out, in], scales and zeros [out, groups] of a linear layer, from the format's description only."""
    stored = load_numpy(folder / "model.safetensors")
    codes, zeros = numbers(stored[f"{name}.qweight"], bits).T, numbers(stored[f"{name}.qzeros"].T, bits) + 1
    return codes, stored[f"{name}.scales"].T.astype(np.float32), zeros


def onnx_tensors(folder: Path) -> dict[str, Array]:
    """Return a model's initializers as the onnx package reads them."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(find_model(folder)).graph.initializer}


def spread(stored: Array, bits: int, count: int) -> Array:
    """Take the numbers out of bytes along the last axis, the first in a byte's low half, and keep `count` of them."""
    if bits == 4:
        stored = np.stack((stored & 15, stored >> 4), axis=-1).reshape(len(stored), -1)
    return stored[:, :count]
