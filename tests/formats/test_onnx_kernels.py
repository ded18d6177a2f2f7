"""What ONNX Runtime's integer kernels compute, against the same arithmetic written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from pythia_quant.formats.onnx.blocks import Blocks, quantize

Array = npt.NDArray[Any]


def run(node: NodeProto, inputs: dict[str, Array], constants: dict[str, Array]) -> Array:
    """Run a model of one operator."""
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    graph = helper.make_graph(
        [node],
        "one_operator",
        [helper.make_tensor_value_info(name, kinds[array.dtype], array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    result: Array = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)[0]
    return result


def product(blocks: Blocks, block_size: int, level: int, activations: Array) -> Array:
    rows, columns = blocks.codes.shape
    sizes: dict[str, Any] = {"K": columns, "N": rows, "bits": 8, "block_size": block_size, "accuracy_level": level}
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["result"], domain="com.microsoft", **sizes)
    codes = blocks.stored().view(*blocks.scales.shape, block_size).numpy()
    return run(node, {"x": activations}, {"codes": codes, "scales": blocks.scales.numpy()})


def integer_product(blocks: Blocks, block_size: int, activations: Array) -> Array:
    """Round activations to int8 per row and block (amax / 127, ties to even), multiply integers, then scale and sum."""
    split = activations.reshape(len(activations), -1, block_size)
    peaks = np.abs(split).max(axis=2, keepdims=True)
    codes = np.rint(split * (np.float32(127) / peaks)).astype(np.int64)
    weights = blocks.codes.numpy().reshape(*blocks.scales.shape, block_size).astype(np.int64)
    sums = np.einsum("mbk,nbk->mnb", codes, weights)
    scales = (peaks[..., 0] / np.float32(127))[:, None] * blocks.scales.numpy()[None]
    result: Array = (sums * scales.astype(np.float64)).sum(axis=2)
    return result


@pytest.fixture
def activations() -> Array:
    """Nine rows of 256, with an outlier feature as trained models have."""
    values = np.random.default_rng(1).standard_normal((9, 256)).astype(np.float32)
    values[:, 3] *= 20
    return values


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(48, 256, generator=torch.Generator().manual_seed(0)) / 16


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
def test_int8_activations_are_rounded_per_block(
    weight: torch.Tensor, activations: Array, rows: int, block_size: int
) -> None:
    blocks, inputs = quantize(weight, block_size), activations[:rows]
    result = product(blocks, block_size, 4, inputs)
    expected = integer_product(blocks, block_size, inputs)
    exact = inputs @ blocks.dequantize().numpy().T
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)
    assert np.abs(result - exact).max() > 1e-3, "activations were not rounded: this CPU runs another kernel"


@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
def test_fp32_activations_are_not_rounded(weight: torch.Tensor, activations: Array, block_size: int) -> None:
    blocks = quantize(weight, block_size)
    expected = activations.astype(np.float64) @ blocks.dequantize().double().numpy().T
    np.testing.assert_allclose(product(blocks, block_size, 1, activations), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
def test_looked_up_rows_are_the_dequantized_rows(weight: torch.Tensor, block_size: int) -> None:
    blocks = quantize(weight, block_size)
    names = ["codes", "ids", "scales"]
    node = helper.make_node(
        "GatherBlockQuantized", names, ["result"], domain="com.microsoft", bits=8, block_size=block_size
    )
    ids = np.array([[0, 47, 5], [5, 1, 2]])
    constants = {"codes": blocks.stored().numpy(), "scales": blocks.scales.numpy()}
    np.testing.assert_array_equal(run(node, {"ids": ids}, constants), blocks.dequantize().numpy()[ids])
