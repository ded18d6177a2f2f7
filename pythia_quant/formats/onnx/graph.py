"""GPT-NeoX as an ONNX graph of ONNX Runtime's fused operators (com.microsoft).

A layer consists of LayerNormalization, one product for query, key, value and the MLP's first half, GroupQueryAttention
with rotary embedding, Gelu, and one product for the attention's output and the MLP's second half.
:mod:`pythia_quant.formats.onnx.nodes` says when products are merged like this. With a sequential residual, attention
and then the MLP have such nodes of their own. Inputs, outputs and dimensions have the names that onnxruntime-genai,
transformers.js and optimum expect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from pythia_quant.formats.onnx import names, nodes
from pythia_quant.formats.onnx.data_file import MARK_KEY, SETTINGS_KEY
from pythia_quant.formats.onnx.nodes import MICROSOFT, OFFSETS, Nodes
from pythia_quant.formats.onnx.rotary import channels_of_head, kept_head_size, rotary_tables
from pythia_quant.formats.onnx.token_tables import Piece, pieces
from pythia_quant.model.architecture import Architecture
from pythia_quant.recipe.onnx_variant import LAST_TOKENS, OnnxSettings

# The oldest that have all these operators: Gelu came with opset 20, 8-bit MatMulNBits with onnxruntime 1.22.
_OPSET, _IR_VERSION = 21, 10
_END = np.iinfo(np.int64).max

Dimension = str | int


def build(
    architecture: Architecture,
    settings: OnnxSettings,
    weights: Sequence[TensorProto],
    mark: str,
    *,
    unpacked: bool = False,
) -> ModelProto:
    """Build the model.

    Args:
        architecture: the model's shape.
        settings: how each tensor is stored and multiplied.
        weights: the tensors, external or not. A :class:`nodes.Product` has, in fp32, ``.weight`` [in, out]; in
            blocks, ``.codes`` uint8 [out, blocks, bytes of a block], ``.scales`` fp32 [out, blocks] and, where some
            zero is not the middle code, ``.zero_points`` uint8 [out, bytes]; in channels, ``.codes`` int8 [in, out]
            and ``.scales`` fp32 [out]; ``.bias`` [out] where it has one. The embedding matrix is ``.weight`` or
            ``.codes``, by rows.
        mark: of the file that holds them.
        unpacked: see :class:`nodes.Nodes`.
    """
    graph = _Graph(architecture, settings, [tensor.name for tensor in weights], unpacked=unpacked)
    hidden = graph.embed()
    graph.lengths()
    for layer in range(architecture.layers):
        hidden = graph.layer(layer, hidden)
    graph.logits(hidden)
    proto = helper.make_graph(
        graph.nodes,
        "gpt_neox",
        _inputs(architecture),
        _outputs(architecture),
        initializer=[*graph.constants, *weights],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(proto, producer_name="pythia-quant", opset_imports=opsets, ir_version=_IR_VERSION)
    helper.set_model_props(model, {SETTINGS_KEY: settings.model_dump_json(), MARK_KEY: mark})
    return model


class _Graph(Nodes):
    """The parts of the model. Each method adds one part, and returns the name of its result."""

    def __init__(
        self, architecture: Architecture, settings: OnnxSettings, stored: Sequence[str], *, unpacked: bool
    ) -> None:
        super().__init__(stored, unpacked=unpacked)
        self._shape, self._settings = architecture, settings
        cosines, sines = rotary_tables(architecture)
        self.constant("rotary_cosines", cosines.numpy())
        self.constant("rotary_sines", sines.numpy())
        self.constant(names.LOGITS_TO_KEEP, np.array(0))

    def embed(self) -> str:
        """Add the lookup of the tokens' embeddings."""
        table = pieces(self._settings, self._settings.embeddings_choice(), self._shape.vocabulary)
        if len(table) == 1:
            return self._looked_up(table[0], names.IDS, names.EMBEDDED)
        rest, frequent = table
        first, last = frequent.rows[0].stop, frequent.rows[1].start
        at = nodes.EMBEDDINGS
        zero, begin, end = (self.constant(f"token_{place}", np.array(place)) for place in (0, first, last))
        early = self.add("Less", [names.IDS, begin], f"{at}.is_early")
        late = self.add("GreaterOrEqual", [names.IDS, end], f"{at}.is_late")
        is_frequent = self.add("Or", [early, late], f"{at}.is_frequent")
        moved = self.add("Sub", [names.IDS, self.constant("rows_between", np.array(last - first))], f"{at}.moved")
        place = self.add("Where", [late, moved, names.IDS], f"{at}.place")
        place = self.add("Where", [is_frequent, place, zero], f"{at}.frequent_place")
        later = self.add("Sub", [names.IDS, begin], f"{at}.later")
        other = self.add("Where", [is_frequent, zero, later], f"{at}.rest_place")
        each = self.add("Unsqueeze", [is_frequent, self._last_axis()], f"{at}.rows_are_frequent")
        found = [
            self._looked_up(piece, ids, f"{at}{piece.suffix}.rows") for piece, ids in ((frequent, place), (rest, other))
        ]
        return self.add("Where", [each, *found], names.EMBEDDED)

    def _looked_up(self, piece: Piece, ids: str, result: str) -> str:
        """Add the lookup of rows of one piece, fp32 [batch, tokens, width]."""
        choice, name = piece.choice, f"{nodes.EMBEDDINGS}{piece.suffix}"
        if choice.weights == "fp32":
            return self.add("Gather", [f"{name}.weight", ids], result)
        size = choice.block_size
        if choice.weights == "int4":
            inputs = [f"{name}.codes", ids, f"{name}.scales"]
            return self.add("GatherBlockQuantized", inputs, result, bits=4, block_size=size)
        # The same in standard operators: the browser build of transformers.js lacks that one.
        codes = self.add("Gather", [f"{name}.codes", ids], f"embedded{piece.suffix}_codes")
        scales = self.add("Gather", [f"{name}.scales", ids], f"embedded{piece.suffix}_scales")
        return self.add("DequantizeLinear", [codes, scales], result, axis=-1, block_size=size)

    def lengths(self) -> None:
        """Add the lengths that all layers share: of each row, and of the longest row, including this run's tokens.

        The attention operator expects a row's tokens at its beginning, so rows may be padded only on the right. If a
        row is padded on the left, an index is out of range, and the run fails in a node whose name says so.
        """
        counts = self.add("ReduceSum", [names.MASK, self._last_axis()], "token_counts", keepdims=0)
        one, place = self.constant("one", np.array([1])), self.constant("first_place", np.array(0))
        first = self.add("Gather", [names.MASK, place], "first_mask", axis=1)
        masked = self.add("Sub", [one, first], "first_is_masked")
        checked = self.add("Gather", [one, masked], "rows_must_not_be_padded_on_the_left")
        last = self.add("Sub", [counts, checked], "last_tokens")
        self.add("Cast", [last], "seqlens_k", to=TensorProto.INT32)
        length = self.add("Shape", [names.MASK], "mask_length", start=1)
        scalar = self.add("Squeeze", [length], "mask_length_scalar")
        self.add("Cast", [scalar], "total_length", to=TensorProto.INT32)

    def layer(self, index: int, hidden: str) -> str:
        """Add one layer."""
        if self._shape.parallel_residual:
            return self._parallel(index, hidden)
        return self._sequential(index, hidden)

    def _parallel(self, index: int, hidden: str) -> str:
        at, d = names.within(index), self._shape.width
        normed = self._normed(index, nodes.NORMS[0], hidden, f"{at}.normed")
        first = [self.product(product, normed) for product in nodes.inner(self._settings, self._shape, index)]
        if len(first) == 1:
            sizes = self.constant("inner_sizes", np.array([3 * d, self._shape.mlp_width]))
            parts = f"{at}.query_key_value", f"{at}.expanded"
            self.add("Split", [*first, sizes], *parts, axis=-1)
            first = list(parts)
        attended = self._attention(index, first[0])
        activated = self._activated(index, first[1])
        last = nodes.outer(self._settings, self._shape, index)
        if len(last) == 1:
            both = self.add("Concat", [attended, activated], f"{at}.both", axis=-1)
            change = self.product(last[0], both)
        else:
            change = self.product(last[0], attended)
            hidden = self.add("Add", [hidden, change], f"{at}.with_attention")
            change = self.product(last[1], activated, OFFSETS[self._shape.activation])
        return self.add("Add", [hidden, change], names.hidden(index))

    def _sequential(self, index: int, hidden: str) -> str:
        at = names.within(index)
        mixed, expand = nodes.inner(self._settings, self._shape, index)
        dense, contract = nodes.outer(self._settings, self._shape, index)
        normed = self._normed(index, nodes.NORMS[0], hidden, f"{at}.normed")
        attended = self._attention(index, self.product(mixed, normed))
        hidden = self.add("Add", [hidden, self.product(dense, attended)], f"{at}.with_attention")
        normed = self._normed(index, nodes.NORMS[1], hidden, f"{at}.normed_again")
        activated = self._activated(index, self.product(expand, normed))
        change = self.product(contract, activated, OFFSETS[self._shape.activation])
        return self.add("Add", [hidden, change], names.hidden(index))

    def _normed(self, index: int, norm: str, hidden: str, result: str) -> str:
        gain = nodes.norm_gain(self._shape, index, norm)
        return self.add("LayerNormalization", [hidden, gain], result, **self._epsilon())

    def _activated(self, index: int, inputs: str) -> str:
        result, kind = f"{names.within(index)}.activated", self._shape.activation
        if kind == "relu":
            return self.add("Relu", [inputs], result)
        return self.add("Gelu", [inputs], result, approximate="none" if kind == "gelu" else "tanh")

    def logits(self, hidden: str) -> None:
        """Add the end. The slice keeps the last positions, or all when `num_logits_to_keep` is 0."""
        axis = self.constant("sequence_axis", np.array([1]))
        negative = self.add("Neg", [names.LOGITS_TO_KEEP], "first_kept")
        start = self.add("Unsqueeze", [negative, self.constant("first_axis", np.array([0]))], "first_kept_1d")
        kept = self.add("Slice", [hidden, start, self.constant("end", np.array([_END])), axis], "kept")
        parameters = [f"{nodes.FINAL_NORM}.weight", f"{nodes.FINAL_NORM}.bias"]
        normed = self.add("LayerNormalization", [kept, *parameters], "final_normed", **self._epsilon())
        parts = [self.product(product, normed) for product in nodes.heads(self._settings, self._shape)]
        if len(parts) == 1:
            self.nodes[-1].output[0] = names.LOGITS
            return
        rest, frequent = parts
        sizes = self.constant("frequent_sizes", np.array([self._settings.frequent_tokens, LAST_TOKENS]))
        ends = f"{nodes.HEAD}.first", f"{nodes.HEAD}.last"
        self.add("Split", [frequent, sizes], *ends, axis=-1)
        self.add("Concat", [ends[0], rest, ends[1]], names.LOGITS, axis=-1)

    def _epsilon(self) -> dict[str, float]:
        return {"axis": -1, "epsilon": self._shape.norm_epsilon}

    def _attention(self, index: int, query_key_value: str) -> str:
        at = names.within(index)
        results = [f"{at}.attended", *names.present(index)]
        heads = {"num_heads": self._shape.heads, "kv_num_heads": self._shape.heads}
        inputs = ["", "", *names.past(index), "seqlens_k", "total_length", "rotary_cosines", "rotary_sines"]
        size, kept = self._shape.head_size, kept_head_size(self._shape)
        if kept == size:
            return self.add("GroupQueryAttention", [query_key_value, *inputs], *results, do_rotary=1, **heads)
        channels = channels_of_head(self._shape)
        widened = self._gathered(query_key_value, f"{at}.widened", 3 * self._shape.heads, size, channels)
        results[0] = f"{at}.attended_wide"
        scale = size**-0.5
        wide = self.add("GroupQueryAttention", [widened, *inputs], *results, do_rotary=1, scale=scale, **heads)
        return self._gathered(wide, f"{at}.attended", self._shape.heads, kept, [*map(channels.index, range(size))])

    def _gathered(self, inputs: str, result: str, heads: int, size: int, channels: list[int]) -> str:
        """Bring some channels of every head into another order; the one after the last is zero."""
        apart = self.constant(f"{heads}_heads_of_{size}", np.array([0, 0, heads, size]))
        one_more = self.constant("one_channel_more", np.array([0, 0, 0, 0, 0, 0, 0, 1]))
        split = self.add("Reshape", [inputs, apart], f"{result}_heads")
        padded = self.add("Pad", [split, one_more], f"{result}_padded")
        indices = self.constant(f"channels_of_{size}", np.array(channels))
        chosen = self.add("Gather", [padded, indices], f"{result}_channels", axis=-1)
        together = self.constant(f"width_of_{heads}_heads", np.array([0, 0, heads * len(channels)]))
        return self.add("Reshape", [chosen, together], result)


def _inputs(architecture: Architecture) -> list[ValueInfoProto]:
    integers: dict[str, list[Dimension]] = {
        names.IDS: ["batch_size", "sequence_length"],
        names.MASK: ["batch_size", "total_sequence_length"],
        names.LOGITS_TO_KEEP: [],  # also an initializer: an input that may be left out
    }
    infos = [helper.make_tensor_value_info(name, TensorProto.INT64, dims) for name, dims in integers.items()]
    return infos + _cache_infos(architecture, names.past, "past_sequence_length")


def _outputs(architecture: Architecture) -> list[ValueInfoProto]:
    dims: list[Dimension] = ["batch_size", "logits_length", architecture.vocabulary]
    logits = helper.make_tensor_value_info(names.LOGITS, TensorProto.FLOAT, dims)
    return [logits, *_cache_infos(architecture, names.present, "total_sequence_length")]


def _cache_infos(
    architecture: Architecture, names_of: Callable[[int], tuple[str, str]], length: str
) -> list[ValueInfoProto]:
    dims: list[Dimension] = ["batch_size", architecture.heads, length, kept_head_size(architecture)]
    return [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for layer in range(architecture.layers)
        for name in names_of(layer)
    ]
