"""The graph of an artifact as a page runs it, for the same file of tensors.

In WebAssembly, onnxruntime has no kernel for blocks of integers: it unpacks a product's weights for every token. In
this graph, blocks of 8 bits become fp32 once, when the model is loaded, and activations are not rounded.
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
        unpacked: whether blocks of 8 bits become fp32; else they stay as they are, which suits WebGPU.

    Raises:
        ArtifactError: the artifact is damaged.
    """
    stored, architecture = open_model(folder)
    tensors = [t for t in stored.proto.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    mark = next(entry.value for entry in stored.proto.metadata_props if entry.key == MARK_KEY)
    model = graph.build(architecture, stored.settings, tensors, mark, unpacked=unpacked)
    _keep_last_logits(model)
    if unpacked:
        read = {name: node.op_type for node in model.graph.node for name in node.input}
        for tensor in model.graph.initializer:
            if len(tensor.dims) == 3 and read.get(tensor.name) == "DequantizeLinear":
                rows, blocks, size = tensor.dims
                tensor.dims[:] = [rows, blocks * size]
    content: bytes = model.SerializeToString()
    return content


def _keep_last_logits(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == names.LOGITS_TO_KEEP:
            tensor.CopyFrom(numpy_helper.from_array(np.array(1), tensor.name))
    place = next(at for at, info in enumerate(model.graph.input) if info.name == names.LOGITS_TO_KEEP)
    del model.graph.input[place]
