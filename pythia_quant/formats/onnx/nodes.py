"""The matrix products of a layer, the names of their tensors in the model, and the nodes that compute them.

With a parallel residual, linear layers that read the same normalized input can be merged into one product, and so can
linear layers whose results are added. They are merged if they are stored alike. Products with a scale per channel are
not merged: a shared input is rounded only once anyway, and attention and MLP keep separate scales of activations.
With a sequential residual nothing can be merged, because the MLP reads the result of attention through a normalization
of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from pythia_quant.formats.onnx import names
from pythia_quant.formats.onnx.token_tables import pieces
from pythia_quant.model.architecture import CONTRACT, DENSE, EXPAND, MIXED, Activation, Architecture
from pythia_quant.recipe.onnx_variant import Choice, OnnxSettings

EMBEDDINGS, HEAD, FINAL_NORM = "embeddings", "head", "final_norm"

NORMS = ("input_layernorm", "post_attention_layernorm")
"""The names within a layer of its normalizations, before attention and before the MLP."""


@dataclass(frozen=True)
class Product:
    """One matrix product.

    Attributes:
        name: the beginning of the names of its tensors, which end with a suffix such as ``.codes``.
        members: the linear layers that the product computes, by their names within the layer.
        choice: how the weights are stored and multiplied.
        rows: the number of outputs.
        columns: the number of inputs.
        bias: whether the product has a bias.
    """

    name: str
    members: tuple[str, ...]
    choice: Choice
    rows: int
    columns: int
    bias: bool


def inner(settings: OnnxSettings, architecture: Architecture, layer: int) -> list[Product]:
    """Return the products that read a layer's normalized inputs. If they are merged, their rows follow each other."""
    d, m = architecture.width, architecture.mlp_width
    rows = {MIXED: 3 * d, EXPAND: m}
    single = [
        Product(f"{names.within(layer)}.{name}", (name,), settings.linear_choice(layer, name), count, d, bias=True)
        for name, count in rows.items()
    ]
    if not _mergeable(architecture, single):
        return single
    return [Product(f"{names.within(layer)}.inner", tuple(rows), single[0].choice, 3 * d + m, d, bias=True)]


def outer(settings: OnnxSettings, architecture: Architecture, layer: int) -> list[Product]:
    """Return the products whose results are added to the residual. If they are merged, their columns follow each other.

    With a parallel residual, only the first product has a bias, which is the sum of both.
    """
    d, m = architecture.width, architecture.mlp_width
    columns = {DENSE: d, CONTRACT: m}
    biased = {DENSE} if architecture.parallel_residual else {DENSE, CONTRACT}
    single = [
        Product(
            f"{names.within(layer)}.{name}", (name,), settings.linear_choice(layer, name), d, count, bias=name in biased
        )
        for name, count in columns.items()
    ]
    if not _mergeable(architecture, single):
        return single
    return [Product(f"{names.within(layer)}.outer", tuple(columns), single[0].choice, d, d + m, bias=True)]


def heads(settings: OnnxSettings, architecture: Architecture) -> list[Product]:
    """Return the head's products, one for each of its pieces."""
    return [
        Product(f"{HEAD}{piece.suffix}", (HEAD,), piece.choice, piece.count, architecture.width, bias=False)
        for piece in pieces(settings, settings.head_choice(), architecture.vocabulary)
    ]


def norm_gain(architecture: Architecture, layer: int, norm: str) -> str:
    """Return the name of the gain of one of a layer's `NORMS`; with a parallel residual they share one gain."""
    return f"{names.within(layer)}.{'norm' if architecture.parallel_residual else norm}.gain"


def _mergeable(architecture: Architecture, products: list[Product]) -> bool:
    alike = products[0].choice == products[1].choice and not products[0].choice.in_channels
    return alike and architecture.parallel_residual


MICROSOFT = "com.microsoft"

_MICROSOFT_OPERATORS = {
    "FusedMatMul", "GatherBlockQuantized", "GroupQueryAttention", "MatMulIntegerToFloat", "MatMulNBits",
}  # fmt: skip

_ACCURACY_LEVELS = {"fp32": 1, "int8": 4, "int8x2": 4}

OFFSETS: Mapping[Activation, float] = {
    "gelu": 0.17,  # its minimum is -0.16997
    "gelu_new": 0.1701,  # that of the tanh form is -0.17004
    "gelu_fast": 0.1701,
    "gelu_pytorch_tanh": 0.1701,
    "relu": 0.0,
}
"""The number that is added to an activation function's results so that none is below zero."""


class Nodes:
    """The nodes of a graph in order, and their constants. A method that adds nodes returns the name of their result.

    Args:
        stored: the names of the tensors that the writer stored, by which a product has zero points or not.
        unpacked: whether weights in blocks become fp32 when the model is loaded, and activations stay fp32.
    """

    def __init__(self, stored: Collection[str] = (), *, unpacked: bool = False) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._stored, self._unpacked = frozenset(stored), unpacked
        self._rounded: dict[str, tuple[str, str]] = {}
        self._terms: dict[tuple[str, int], str] = {}

    def add(self, operator: str, inputs: list[str], *results: str, **attributes: Any) -> str:
        """Add one node, which is named after its first result; return that result's name."""
        domain = MICROSOFT if operator in _MICROSOFT_OPERATORS else ""
        name = f"{results[0]}.{operator}"
        self.nodes.append(helper.make_node(operator, inputs, results, name, domain=domain, **attributes))
        return results[0]

    def constant(self, name: str, value: npt.NDArray[Any] | np.generic) -> str:
        """Add a constant unless one of this name was added before."""
        if all(constant.name != name for constant in self.constants):
            self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def product(self, product: Product, inputs: str, offset: float | None = None) -> str:
        """Add the nodes that multiply inputs by stored weights; return the result's name, fp32 [batch, tokens, rows].

        Args:
            product: the product.
            inputs: the name of the inputs, fp32 [batch, tokens, columns].
            offset: a number such that inputs plus this number are never negative. Their codes then need no sign, and
                have one bit more. None if the inputs may have any sign.
        """
        name, choice = product.name, product.choice
        result = f"{name}.result"
        if self._unpacks(product):
            multiplied = self._unpacked_blocks(product, inputs)
        elif choice.in_blocks and choice.activations != "int8x2":
            return self._blocks(product, inputs, result, bias=product.bias)
        elif choice.in_blocks:
            multiplied = self._in_two_terms(product, inputs)
        elif choice.in_channels:
            multiplied = self._channels(product, inputs, offset)
        else:
            multiplied = self.add("MatMul", [inputs, f"{name}.weight"], f"{name}.product")
        return self.add("Add", [multiplied, f"{name}.bias"], result) if product.bias else multiplied

    def _blocks(self, product: Product, inputs: str, result: str, *, bias: bool = False) -> str:
        name, choice = product.name, product.choice
        arguments = [inputs, f"{name}.codes", f"{name}.scales"]
        zero_points = f"{name}.zero_points"
        if zero_points in self._stored:
            arguments.append(zero_points)
        if bias:
            arguments += [""] * (5 - len(arguments)) + [f"{name}.bias"]
        sizes = {
            "K": product.columns,
            "N": product.rows,
            "bits": choice.bits,
            "block_size": choice.block_size,
        }
        level = _ACCURACY_LEVELS[choice.activations]
        return self.add("MatMulNBits", arguments, result, accuracy_level=level, **sizes)

    def _unpacks(self, product: Product) -> bool:
        """Say whether a product's weights become fp32 when the model is loaded.

        Zero points of 4 bits begin with a new byte in each row, which those of an operator of ONNX do not.
        """
        choice, zeros = product.choice, f"{product.name}.zero_points" in self._stored
        if not (self._unpacked and choice.in_blocks):
            return False
        return choice.bits == 8 or not zeros or product.columns // choice.block_size % 2 == 0

    def _unpacked_blocks(self, product: Product, inputs: str) -> str:
        """Multiply by weights that onnxruntime computes once, when it loads the model, as they depend on no input.

        The codes are [out, in] here, and zero points [out, blocks], both of 8 or of 4 bits, which are the same bytes.
        """
        name = product.name
        zero_points = f"{name}.zero_points"
        if zero_points not in self._stored:
            zero_points = self._middles(product)
        weights = self.add(
            "DequantizeLinear", [f"{name}.codes", f"{name}.scales", zero_points], f"{name}.unpacked", axis=1,
            block_size=product.choice.block_size,
        )  # fmt: skip
        return self.add("FusedMatMul", [inputs, weights], f"{name}.product", transB=1)

    def _middles(self, product: Product) -> str:
        """Add the middle code of each block, integers of as many bits as the codes.

        onnxruntime makes no 4-bit integers of a shape, so these are stored. They take 1/32 of the codes at most.
        """
        name, shape = f"{product.name}.middles", (product.rows, product.columns // product.choice.block_size)
        if product.choice.bits == 8:
            value = helper.make_tensor("middle", TensorProto.UINT8, [1], [128])
            return self.add("ConstantOfShape", [self.constant(f"{name}.shape", np.array(shape))], name, value=value)
        content = b"\x88" * ((shape[0] * shape[1] + 1) // 2)
        self.constants.append(helper.make_tensor(name, TensorProto.UINT4, shape, content, raw=True))
        return name

    def _in_two_terms(self, product: Product, inputs: str) -> str:
        """Multiply the inputs rounded to int8 per block, and the remainder of that rounding, by the same weights.

        The kernel rounds both terms again. The first one is on the kernel's grid already and does not change; the step
        for the remainder is 254 times finer. Both terms are rows of one product, so the second one costs little while
        the time is spent on reading the weights from memory.
        """
        at, size = product.name, product.choice.block_size
        if (inputs, size) not in self._terms:
            self._terms[inputs, size] = self._two_terms(product, inputs)
        multiplied = self._blocks(product, self._terms[inputs, size], f"{at}.products")
        halves = self.add("Split", [multiplied], f"{at}.first_product", f"{at}.second_product", axis=1, num_outputs=2)
        return self.add("Add", [halves, f"{at}.second_product"], f"{at}.product")

    def _two_terms(self, product: Product, inputs: str) -> str:
        """Add the nodes that split the inputs; return the name of both terms, one after the other along the tokens."""
        at, size = product.name, product.choice.block_size
        blocks = self.constant(
            f"{product.columns}_in_blocks_of_{size}", np.array([0, 0, product.columns // size, size])
        )
        whole = self.constant(f"rows_of_{product.columns}", np.array([0, 0, product.columns]))
        split = self.add("Reshape", [inputs, blocks], f"{at}.in_blocks")
        peaks = self._peaks(split, at)
        step = self.add("Mul", [peaks, self.constant("one_127th", np.float32(1 / 127))], f"{at}.step")
        steps = self.add("Div", [split, step], f"{at}.steps")
        rounded = self.add("Round", [steps], f"{at}.rounded")
        first = self.add("Mul", [rounded, step], f"{at}.first_in_blocks")
        second = self.add("Sub", [split, first], f"{at}.second_in_blocks")
        terms = [
            self.add("Reshape", [term, whole], f"{at}.{name}_term")
            for term, name in ((first, "first"), (second, "second"))
        ]
        return self.add("Concat", terms, f"{at}.terms", axis=1)

    def _channels(self, product: Product, inputs: str, offset: float | None) -> str:
        """Multiply integers by integers. Inputs have a scale per token, weights have one per output channel."""
        at = product.name
        if offset is None:
            codes, scales, zero = *self._round_around_zero(inputs), self.constant("zero_point_128", np.uint8(128))
        else:
            codes, scales, zero = *self._round_upwards(inputs, offset), self.constant("zero_point_0", np.uint8(0))
        one = self.constant("unit_scale", np.float32(1))
        arguments = [codes, f"{at}.codes", one, f"{at}.scales", zero]
        unscaled = self.add("MatMulIntegerToFloat", arguments, f"{at}.unscaled")
        scaled = self.add("Mul", [unscaled, scales], f"{at}.product")
        return self.add("Add", [scaled, f"{at}.shift"], f"{at}.shifted") if offset else scaled

    def _round_around_zero(self, inputs: str) -> tuple[str, str]:
        """Round to -127..127, and add 128 because the fast kernels take unsigned codes.

        Returns:
            The names of the codes, and of the scale of each token.
        """
        if inputs not in self._rounded:
            peaks = self._peaks(inputs, inputs)
            scale = self.add("Mul", [peaks, self.constant("one_127th", np.float32(1 / 127))], f"{inputs}.scale")
            self._rounded[inputs] = self._quantize(inputs, scale, self.constant("zero_point_128", np.uint8(128))), scale
        return self._rounded[inputs]

    def _round_upwards(self, inputs: str, offset: float) -> tuple[str, str]:
        """Round values of at least -offset to 0..255; return the names of the codes and of the scale of each token."""
        lifted = inputs
        if offset:
            constant = self.constant("gelu_offset", np.float32(offset))
            lifted = self.add("Add", [inputs, constant], f"{inputs}.lifted")
        largest = self.add("ReduceMax", [lifted, self._last_axis()], f"{inputs}.largest", keepdims=1)
        if not offset:  # all may be 0
            largest = self._above_zero(largest, inputs)
        scale = self.add("Mul", [largest, self.constant("one_255th", np.float32(1 / 255))], f"{inputs}.scale")
        return self._quantize(lifted, scale, self.constant("zero_point_0", np.uint8(0))), scale

    def _quantize(self, inputs: str, scale: str, zero_point: str) -> str:
        steps = self.add("Div", [inputs, scale], f"{inputs}.steps")
        return self.add(
            "QuantizeLinear", [steps, self.constant("unit_scale", np.float32(1)), zero_point], f"{inputs}.codes"
        )

    def _peaks(self, inputs: str, at: str) -> str:
        """Return the largest magnitude along the last axis, which is above zero, so that it can be a divisor."""
        magnitudes = self.add("Abs", [inputs], f"{at}.magnitudes")
        largest = self.add("ReduceMax", [magnitudes, self._last_axis()], f"{at}.largest", keepdims=1)
        return self._above_zero(largest, at)

    def _above_zero(self, largest: str, at: str) -> str:
        return self.add("Max", [largest, self.constant("smallest_peak", np.float32(1e-30))], f"{at}.peaks")

    def _last_axis(self) -> str:
        return self.constant("last_axis", np.array([-1]))
