"""What ONNX Runtime's integer kernels compute, against the same arithmetic written out in numpy."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx_models import exact_options
from transformers.activations import ACT2FN

from pythia_quant.formats.onnx.nodes import OFFSETS, Nodes, Product
from pythia_quant.model.architecture import Activation
from pythia_quant.quantizers.blocks import Blocks, from_quantized, quantize
from pythia_quant.quantizers.grid import Quantized, consecutive_groups
from pythia_quant.recipe.onnx_variant import Choice

Array = npt.NDArray[Any]


def run(nodes: list[NodeProto], inputs: dict[str, Array], constants: dict[str, Array], result: str = "result") -> Array:
    """Run a model of a few operators."""
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "operators",
        [helper.make_tensor_value_info(name, kinds[array.dtype], array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    computed: Array = ort.InferenceSession(model, exact_options(), providers=["CPUExecutionProvider"]).run(
        None, inputs
    )[0]
    return computed


def product(blocks: Blocks, block_size: int, level: int, activations: Array) -> Array:
    rows, columns = blocks.codes.shape
    sizes: dict[str, Any] = {"K": columns, "N": rows, "bits": 8, "block_size": block_size, "accuracy_level": level}
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["result"], domain="com.microsoft", **sizes)
    codes = blocks.stored().view(*blocks.scales.shape, block_size).numpy()
    return run([node], {"x": activations}, {"codes": codes, "scales": blocks.scales.numpy()})


def integer_product(blocks: Blocks, block_size: int, activations: Array) -> Array:
    """Round activations to int8 per row and block (amax / 127, ties to even), multiply integers, then scale and sum."""
    split = activations.reshape(len(activations), -1, block_size)
    peaks = np.abs(split).max(axis=2, keepdims=True)
    codes = np.rint(split * (np.float32(127) / peaks)).astype(np.int64)
    weights = blocks.codes.numpy().reshape(*blocks.scales.shape, block_size).astype(np.int64)
    if blocks.zeros is not None:
        weights -= blocks.zeros.numpy()[..., None]
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
def test_looked_up_rows_of_4_bits_are_the_dequantized_rows(weight: torch.Tensor, block_size: int) -> None:
    blocks = quantize(weight, block_size, bits=4)
    names = ["codes", "ids", "scales"]
    node = helper.make_node(
        "GatherBlockQuantized", names, ["result"], domain="com.microsoft", bits=4, block_size=block_size
    )
    ids = np.array([[0, 47, 5], [5, 1, 2]])
    constants = {"codes": blocks.stored().numpy(), "scales": blocks.scales.numpy()}
    np.testing.assert_array_equal(run([node], {"ids": ids}, constants), blocks.dequantize().numpy()[ids])


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_are_subtracted_from_codes_over_their_whole_range(bits: int, block_size: int, rows: int) -> None:
    """Blocks are odd, so that the last byte of zero points of 4 bits is half empty; two rows are all of one extreme."""
    top, columns = 2**bits - 1, 3 * block_size
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(top + 1, (48, columns), generator=generator).byte()
    zeros = torch.randint(1, top + 1, (48, 3), generator=generator).byte()
    codes[0], zeros[0], codes[1], zeros[1] = top, 1, 0, top
    scales = (torch.rand(48, 3, generator=generator) + 0.1).half()
    blocks = from_quantized(Quantized(bits, codes, scales, zeros, consecutive_groups(columns, block_size)))
    inputs = np.random.default_rng(2).standard_normal((rows, columns)).astype(np.float32)
    inputs[0] = np.abs(inputs[0])
    kind: Literal["int4", "int8"] = "int4" if bits == 4 else "int8"
    exact = inputs.astype(np.float64) @ blocks.dequantize().double().numpy().T
    largest = np.abs(exact).max()
    result = run_product(Choice(kind, block_size, "fp32"), blocks, inputs)
    np.testing.assert_allclose(result, exact, rtol=0, atol=2e-6 * largest)
    result = run_product(Choice(kind, block_size, "int8"), blocks, inputs)
    np.testing.assert_allclose(result, integer_product(blocks, block_size, inputs), rtol=0, atol=2e-6 * largest)


@pytest.fixture
def spread(activations: Array) -> Array:
    """Tokens of very different sizes, one of zeros: scales of their own make no difference to the others."""
    sizes = np.logspace(-3, 3, len(activations), dtype=np.float32)
    sizes[4] = 0
    result: Array = (activations * sizes[:, None])[None]
    return result


def run_product(choice: Choice, blocks: Blocks, inputs: Array, offset: float | None = None) -> Array:
    """Multiply by nodes and constants as the writer and the graph make them."""
    rows, columns = blocks.codes.shape
    zero_points = blocks.stored_zeros()
    tensors = {} if zero_points is None else {"p.zero_points": zero_points.numpy()}
    nodes = Nodes(tensors)
    product = Product("p", ("p",), choice, rows, columns, bias=False)
    result = nodes.product(product, "x", offset)
    constants = tensors | {constant.name: numpy_helper.to_array(constant) for constant in nodes.constants}
    if choice.in_channels:
        constants |= {"p.codes": blocks.codes.t().contiguous().numpy(), "p.scales": blocks.scales.flatten().numpy()}
        constants |= {"p.shift": (-offset * blocks.dequantize().sum(1)).numpy()} if offset else {}
    else:
        stored = blocks.stored().view(*blocks.scales.shape, -1)
        constants |= {"p.codes": stored.numpy(), "p.scales": blocks.scales.numpy()}
    return run(nodes.nodes, {"x": inputs}, constants, result)


@pytest.mark.parametrize("bits", [8, 7])
def test_channels_multiply_activations_rounded_per_token(weight: torch.Tensor, spread: Array, bits: int) -> None:
    blocks = quantize(weight, 256, bits)
    result = run_product(Choice("int8-channel", 0, "int8"), blocks, spread)
    peaks = np.maximum(np.abs(spread).max(axis=2, keepdims=True), 1e-30)
    codes = np.rint(spread / (peaks * np.float32(1 / 127)))
    sums = codes.astype(np.float64) @ blocks.codes.double().numpy().T
    expected = sums * (peaks / 127) * blocks.scales.double().numpy().T
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6 * peaks.max())
    token = np.abs(spread).max(axis=2) > 0
    exact = spread.astype(np.float64) @ blocks.dequantize().double().numpy().T
    relative = np.abs(result - exact).max(axis=2) / np.abs(exact).max(axis=2, where=exact != 0, initial=1e-30)
    assert (relative[token] < 0.05).all()
    assert (result[~token] == 0).all()


@pytest.mark.parametrize("kind", get_args(Activation))
def test_no_result_of_an_activation_is_below_its_offset(kind: Activation) -> None:
    """And the offset is the least with four digits, so that no code is lost."""
    inputs = torch.linspace(-3, 3, 600_001)
    lowest = -float(ACT2FN[kind](inputs).min())
    assert 0 <= OFFSETS[kind] - lowest < 1e-4


@pytest.mark.parametrize("kind", get_args(Activation))
def test_channels_round_what_an_activation_gave_in_255_steps(
    weight: torch.Tensor, spread: Array, kind: Activation
) -> None:
    blocks, offset = quantize(weight, 256), OFFSETS[kind]
    activated = ACT2FN[kind](torch.from_numpy(spread)).numpy()
    result = run_product(Choice("int8-channel", 0, "int8"), blocks, activated, offset)
    lifted = activated.astype(np.float64) + offset
    step = np.maximum(lifted.max(axis=2, keepdims=True), 1e-30) / 255
    rounded = np.rint(lifted / step) * step - offset
    assert rounded.min() >= -offset - 1e-6
    expected = rounded @ blocks.dequantize().double().numpy().T
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-3 * float(step.max()) * 16)


@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_two_terms_are_254_times_finer_than_one(
    weight: torch.Tensor, spread: Array, kind: Literal["int8", "int4"], block_size: int
) -> None:
    blocks = quantize(weight, block_size, 8 if kind == "int8" else 4)
    exact = spread.astype(np.float64) @ blocks.dequantize().double().numpy().T
    one, two = (
        np.abs(run_product(Choice(kind, block_size, terms), blocks, spread) - exact).max(axis=2)
        for terms in ("int8", "int8x2")
    )
    largest = np.abs(exact).max(axis=2)
    assert (two <= one / 100 + 1e-6 * largest).all()
    assert (one[largest > 0] > 1e-3 * largest[largest > 0]).all()
