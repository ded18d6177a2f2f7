"""GPT-NeoX as an ONNX graph of ONNX Runtime's fused operators (com.microsoft), on folded and merged weights.

One layer: LayerNormalization without a gain of its own, one product for query, key, value and the MLP's first half,
RotaryEmbedding, GroupQueryAttention, exact Gelu, one product for the attention's output and the MLP's second half.
Names of inputs, outputs and dimensions are those that onnxruntime-genai, transformers.js and optimum expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from pythia_quant.architecture import Architecture
from pythia_quant.formats.onnx.settings import OnnxSettings
from pythia_quant.layerwise import rotary_angles

# The oldest that have all these operators: Gelu came with opset 20, 8-bit MatMulNBits with onnxruntime 1.22.
_OPSET, _IR_VERSION = 21, 10
_MICROSOFT = "com.microsoft"
_MICROSOFT_OPERATORS = {"GatherBlockQuantized", "GroupQueryAttention", "MatMulNBits", "RotaryEmbedding"}
_ACCURACY_LEVELS = {"fp32": 1, "int8": 4}
_END = np.iinfo(np.int64).max

EMBEDDINGS, HEAD, FINAL_NORM = "embeddings", "head", "final_norm"
SETTINGS_KEY = "pythia_quant.settings"
"""Key of the model's metadata under which the settings stand as JSON."""

Dimension = str | int


def inner(layer: int) -> str:
    """Return the name of a layer's merged first product; a suffix names its tensors, such as ``.weight``."""
    return f"layers.{layer}.inner"


def outer(layer: int) -> str:
    """Return the name of a layer's merged last product."""
    return f"layers.{layer}.outer"


def build(architecture: Architecture, settings: OnnxSettings, weights: Sequence[TensorProto]) -> ModelProto:
    """Build the model.

    Args:
        architecture: the model's shape.
        settings: which weights are int8 blocks.
        weights: the tensors, external or not. A linear layer in fp32 is ``<name>.weight`` [in, out]; in int8 blocks
            ``<name>.codes`` uint8 [out, blocks, block size] and ``<name>.scales`` fp32 [out, blocks]; layers add
            ``<name>.bias``. The embedding matrix is ``.weight`` [vocabulary, width], or ``.codes`` of that shape.
    """
    nodes = _Nodes(architecture, settings)
    hidden = nodes.embed()
    nodes.lengths()
    for layer in range(architecture.layers):
        hidden = nodes.layer(layer, hidden)
    nodes.logits(hidden)
    graph = helper.make_graph(
        nodes.nodes,
        "gpt_neox",
        _inputs(architecture),
        _outputs(architecture),
        initializer=[*_constants(architecture), *weights],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    model = helper.make_model(graph, producer_name="pythia-quant", opset_imports=opsets, ir_version=_IR_VERSION)
    helper.set_model_props(model, {SETTINGS_KEY: settings.model_dump_json()})
    return model


class _Nodes:
    """Collects the nodes in order; each method adds some and returns the name of their (first) result."""

    def __init__(self, architecture: Architecture, settings: OnnxSettings) -> None:
        self.nodes: list[NodeProto] = []
        self._shape, self._settings = architecture, settings

    def embed(self) -> str:
        """Look the tokens up."""
        if self._settings.embeddings == "fp32":
            return self._add("Gather", [f"{EMBEDDINGS}.weight", "input_ids"], "embedded")
        inputs = [f"{EMBEDDINGS}.codes", "input_ids", f"{EMBEDDINGS}.scales"]
        return self._add("GatherBlockQuantized", inputs, "embedded", bits=8, block_size=self._settings.block_size)

    def lengths(self) -> None:
        """Add what all layers share: how many tokens there are with this run's, in each row and in the longest."""
        counts = self._add("ReduceSum", ["attention_mask", "last_axis"], "token_counts", keepdims=0)
        last = self._add("Sub", [counts, "one"], "last_tokens")
        self._add("Cast", [last], "seqlens_k", to=TensorProto.INT32)
        length = self._add("Shape", ["attention_mask"], "mask_length", start=1)
        scalar = self._add("Squeeze", [length], "mask_length_scalar")
        self._add("Cast", [scalar], "total_length", to=TensorProto.INT32)

    def layer(self, index: int, hidden: str) -> str:
        """Add one layer."""
        at, d, m = f"layers.{index}", self._shape.width, self._shape.mlp_width
        normed = self._add("LayerNormalization", [hidden, "unit_gain"], f"{at}.normed", **self._epsilon())
        merged = self._linear(inner(index), normed, rows=3 * d + m, columns=d)
        query, key, value, expanded = (f"{at}.{part}" for part in ("query", "key", "value", "expanded"))
        self._add("Split", [merged, "merged_sizes"], query, key, value, expanded, axis=-1)
        attended = self._attention(index, self._rotate(query), self._rotate(key), value)
        activated = self._add("Gelu", [expanded], f"{at}.activated", approximate="none")
        both = self._add("Concat", [attended, activated], f"{at}.both", axis=-1)
        change = self._linear(outer(index), both, rows=d, columns=d + m)
        return self._add("Add", [hidden, change], f"{at}.hidden")

    def logits(self, hidden: str) -> None:
        """Add the end. The slice keeps the last positions, or all when `num_logits_to_keep` is 0."""
        negative = self._add("Neg", ["num_logits_to_keep"], "first_kept")
        start = self._add("Unsqueeze", [negative, "first_axis"], "first_kept_1d")
        kept = self._add("Slice", [hidden, start, "end", "sequence_axis"], "kept")
        parameters = [f"{FINAL_NORM}.weight", f"{FINAL_NORM}.bias"]
        normed = self._add("LayerNormalization", [kept, *parameters], "final_normed", **self._epsilon())
        rows, columns = self._shape.vocabulary, self._shape.width
        self._product(HEAD, normed, "logits", rows=rows, columns=columns, kind=self._settings.head)

    def _epsilon(self) -> dict[str, float]:
        return {"axis": -1, "epsilon": self._shape.norm_epsilon}

    def _rotate(self, states: str) -> str:
        inputs = [states, "position_ids", "rotary_cosines", "rotary_sines"]
        sizes = {"num_heads": self._shape.heads, "rotary_embedding_dim": self._shape.rotary_size}
        return self._add("RotaryEmbedding", inputs, f"{states}_rotated", **sizes)

    def _attention(self, index: int, query: str, key: str, value: str) -> str:
        past = [f"past_key_values.{index}.{part}" for part in ("key", "value")]
        results = [f"layers.{index}.attended", *(f"present.{index}.{part}" for part in ("key", "value"))]
        heads = {"num_heads": self._shape.heads, "kv_num_heads": self._shape.heads}
        inputs = [query, key, value, *past, "seqlens_k", "total_length"]
        return self._add("GroupQueryAttention", inputs, *results, **heads)

    def _linear(self, name: str, inputs: str, *, rows: int, columns: int) -> str:
        kind = self._settings.weights
        product = self._product(name, inputs, f"{name}.product", rows=rows, columns=columns, kind=kind)
        return self._add("Add", [product, f"{name}.bias"], f"{name}.result")

    def _product(self, name: str, inputs: str, result: str, *, rows: int, columns: int, kind: str) -> str:
        if kind == "fp32":
            return self._add("MatMul", [inputs, f"{name}.weight"], result)
        level = _ACCURACY_LEVELS[self._settings.activations]
        attributes = {"K": columns, "N": rows, "bits": 8, "block_size": self._settings.block_size}
        stored = [f"{name}.codes", f"{name}.scales"]
        return self._add("MatMulNBits", [inputs, *stored], result, accuracy_level=level, **attributes)

    def _add(self, operator: str, inputs: list[str], *results: str, **attributes: Any) -> str:
        domain = _MICROSOFT if operator in _MICROSOFT_OPERATORS else ""
        name = f"{results[0]}.{operator}"
        self.nodes.append(helper.make_node(operator, inputs, results, name, domain=domain, **attributes))
        return results[0]


def _constants(architecture: Architecture) -> list[TensorProto]:
    angles = rotary_angles(architecture, architecture.context)
    d = architecture.width
    arrays = {
        "unit_gain": np.ones(d, np.float32),
        "rotary_cosines": angles.cos().numpy(),
        "rotary_sines": angles.sin().numpy(),
        "merged_sizes": np.array([d, d, d, architecture.mlp_width]),
        "one": np.array(1),
        "first_axis": np.array([0]),
        "sequence_axis": np.array([1]),
        "last_axis": np.array([-1]),
        "end": np.array([_END]),
        "num_logits_to_keep": np.array(0),
    }
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]


def _inputs(architecture: Architecture) -> list[ValueInfoProto]:
    integers: dict[str, list[Dimension]] = {
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", "total_sequence_length"],
        "position_ids": ["batch_size", "sequence_length"],
        "num_logits_to_keep": [],  # also an initializer: an input that may be left out
    }
    infos = [helper.make_tensor_value_info(name, TensorProto.INT64, dims) for name, dims in integers.items()]
    return infos + _cache_infos(architecture, "past_key_values", "past_sequence_length")


def _outputs(architecture: Architecture) -> list[ValueInfoProto]:
    dims: list[Dimension] = ["batch_size", "logits_length", architecture.vocabulary]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, dims)
    return [logits, *_cache_infos(architecture, "present", "total_sequence_length")]


def _cache_infos(architecture: Architecture, prefix: str, length: str) -> list[ValueInfoProto]:
    dims: list[Dimension] = ["batch_size", architecture.heads, length, architecture.head_size]
    return [
        helper.make_tensor_value_info(f"{prefix}.{layer}.{part}", TensorProto.FLOAT, dims)
        for layer in range(architecture.layers)
        for part in ("key", "value")
    ]
