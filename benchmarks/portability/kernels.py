"""Single kernels with the inputs that saturate most, and their exact results in integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from pythia_quant.quantizers.blocks import Blocks

Array = npt.NDArray[Any]

ROWS = (1, 2, 9, 33)
"""How many tokens at once: these use the kernels for one token, for pairs, and for tiles with a remainder."""

_COLUMNS = 37
_PATTERNS = 6
_LARGEST_PRODUCT = 384


@dataclass(frozen=True)
class Kernel:
    """One matrix product.

    Attributes:
        kind: the heading of its column in the table.
        name: the name of its files.
        rows: tokens at once.
        model: one operator with constant weights.
        inputs: its inputs, stacked [runs, rows, inputs].
        exact: int64 [runs, rows, columns].
    """

    kind: str
    name: str
    rows: int
    model: onnx.ModelProto
    inputs: Array
    exact: Array

    def write(self, folder: Path) -> None:
        """Write ``NAME.onnx`` and ``NAME.npz``."""
        onnx.save(self.model, folder / f"{self.name}.onnx")
        np.savez(folder / f"{self.name}.npz", x=self.inputs)


def kernels() -> Iterator[Kernel]:
    """Yield every kind of product, in every size of block, for every number of rows."""
    for rows in ROWS:
        for bits in (8, 4):
            for block_size in (16, 32, 64, 128):
                yield _blocks(rows, bits, block_size)
        for bits in (8, 7):
            for zero_point in (128, 0):
                yield _channels(rows, bits, zero_point)


def _blocks(rows: int, bits: int, block_size: int) -> Kernel:
    """Give activations whose scales are 1, so that sums are integers that fp32 holds; blocks are odd in number."""
    blocks = _LARGEST_PRODUCT // block_size
    blocks -= 1 - blocks % 2
    inputs = blocks * block_size
    weights = _patterns(_COLUMNS, inputs, *((-127, 127) if bits == 8 else (-8, 7)))
    stored = Blocks(bits, torch.from_numpy(weights.astype(np.int8)), torch.ones(_COLUMNS, blocks))
    codes = _runs(rows, inputs, -127, 127)
    sizes: dict[str, Any] = {"K": inputs, "N": _COLUMNS, "bits": bits, "block_size": block_size, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", **sizes)
    constants: dict[str, Array] = {
        "codes": stored.stored().view(_COLUMNS, blocks, -1).numpy(),
        "scales": stored.scales.numpy(),
    }
    model = _model(node, TensorProto.FLOAT, inputs, constants)
    name = f"blocks-{bits}-{block_size}-{rows}"
    return Kernel(f"int{bits}\nblocks", name, rows, model, codes.astype(np.float32), codes @ weights.T)


def _channels(rows: int, bits: int, zero_point: int) -> Kernel:
    inputs, peak = _LARGEST_PRODUCT, 2 ** (bits - 1) - 1
    weights = _patterns(_COLUMNS, inputs, -peak, peak)
    codes = _runs(rows, inputs, 1 if zero_point else 0, 255)
    names = ["x", "codes", "one", "scales", "zero_point"]
    node = helper.make_node("MatMulIntegerToFloat", names, ["y"], domain="com.microsoft")
    constants: dict[str, Array] = {
        "codes": np.ascontiguousarray(weights.T.astype(np.int8)),
        "one": np.array(1, np.float32),
        "scales": np.ones(_COLUMNS, np.float32),
        "zero_point": np.array(zero_point, np.uint8),
    }
    model = _model(node, TensorProto.UINT8, inputs, constants)
    kind = f"int{bits}-channel\n{'1..255' if zero_point else '0..255'}"
    name = f"channels-{bits}-{zero_point}-{rows}"
    return Kernel(kind, name, rows, model, codes.astype(np.uint8), (codes - zero_point) @ weights.T)


def _patterns(count: int, length: int, low: int, high: int) -> Array:
    """Return int64 [count, length]: all high, all low, alternating by one and by two, and random ones, in turn."""
    places, generator = np.arange(length), np.random.default_rng(0)
    chosen = [np.zeros(length), np.ones(length), places % 2, places // 2 % 2]
    chosen += [generator.integers(2, size=length) for _ in range(_PATTERNS - len(chosen))]
    return np.where(np.stack([chosen[i % _PATTERNS] for i in range(count)]) == 0, high, low).astype(np.int64)


def _runs(rows: int, length: int, low: int, high: int) -> Array:
    """Return int64 [runs, rows, length], each run beginning with another pattern."""
    codes = _patterns(rows + _PATTERNS, length, low, high)
    return np.stack([codes[start : start + rows] for start in range(_PATTERNS)])


def _model(node: NodeProto, kind: int, inputs: int, constants: dict[str, Array]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "kernel",
        [helper.make_tensor_value_info("x", kind, ["rows", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
