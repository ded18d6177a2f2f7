"""The graph of an artifact as a page runs it, for the same file of tensors.

In WebAssembly, onnxruntime has no kernel for blocks of integers: it unpacks a product's weights for every token. In
this graph, blocks of 8 and 4 bits become fp32 once, when the model is loaded, and activations are not rounded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from pythia_quant.formats.onnx import graph, names
from pythia_quant.formats.onnx.data_file import MARK_KEY
from pythia_quant.formats.onnx.graph_check import open_model

MOST_UNPACKED = 250_000_000
"""The parameters of the largest model whose weights are unpacked: they take 4 bytes each in the page's memory."""


def browser_graph(folder: Path, *, unpacked: bool) -> bytes:
    """Return the graph for an artifact's own file of tensors. It computes the logits of the last position only.

    onnxruntime-web takes no value for an input that may be left out, such as the number of logits.

    Args:
        folder: the artifact's folder.
        unpacked: whether blocks become fp32; else they stay as they are, which suits WebGPU.

    Raises:
        ArtifactError: the artifact is damaged.
    """
    stored, architecture = open_model(folder)
    tensors = [t for t in stored.proto.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    mark = next(entry.value for entry in stored.proto.metadata_props if entry.key == MARK_KEY)
    model = graph.build(architecture, stored.settings, tensors, mark, unpacked=unpacked)
    _keep_last_logits(model)
    if unpacked:
        _spread(model)
    content: bytes = model.SerializeToString()
    return content


def _spread(model: ModelProto) -> None:
    """Declare codes and zero points as the operator that unpacks them takes them; their bytes stay as they are."""
    sizes = {
        node.input[0]: next(entry.i for entry in node.attribute if entry.name == "block_size")
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    zeros = {node.input[2] for node in model.graph.node if node.op_type == "DequantizeLinear" and len(node.input) > 2}
    codes = {
        tensor.name: tensor for tensor in model.graph.initializer if tensor.name in sizes and len(tensor.dims) == 3
    }
    for name, tensor in codes.items():
        rows, blocks, held = tensor.dims
        tensor.dims[:] = [rows, blocks * sizes[name]]
        if held < sizes[name]:
            tensor.data_type = TensorProto.UINT4
    halves = {name.removesuffix(".codes") for name, tensor in codes.items() if tensor.data_type == TensorProto.UINT4}
    for tensor in model.graph.initializer:
        product = tensor.name.removesuffix(".zero_points")
        if tensor.name in zeros and product in halves and tensor.data_type == TensorProto.UINT8:
            rows, held = tensor.dims
            tensor.dims[:], tensor.data_type = [rows, 2 * held], TensorProto.UINT4


def _keep_last_logits(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == names.LOGITS_TO_KEEP:
            tensor.CopyFrom(numpy_helper.from_array(np.array(1), tensor.name))
    place = next(at for at, info in enumerate(model.graph.input) if info.name == names.LOGITS_TO_KEEP)
    del model.graph.input[place]
