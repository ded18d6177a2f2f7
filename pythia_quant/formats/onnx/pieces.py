"""Cut a stored model into parts that run one after the other, so that a model larger than memory can be run."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import GraphProto, ModelProto, TensorProto, helper


def cut(model: ModelProto, begin: str | None, end: str) -> ModelProto:
    """Return the part of a model that computes one tensor from another.

    Args:
        model: whose external data stay where they are.
        begin: the fp32 tensor, [batch, tokens, width], that becomes an input; None to begin with the model's inputs.
        end: the fp32 tensor that becomes the only output.

    Returns:
        A model with that part's nodes and initializers, and those of the model's inputs that they read.
    """
    producers = {output: index for index, node in enumerate(model.graph.node) for output in node.output if output}
    needed: set[int] = set()
    read: set[str] = set()
    waiting = [end]
    while waiting:
        name = waiting.pop()
        if name in read or name in ("", begin):
            continue
        read.add(name)
        if name in producers:
            needed.add(producers[name])
            waiting += model.graph.node[producers[name]].input
    source = model.graph
    inputs = [info for info in source.input if info.name in read]
    if begin is not None:
        inputs.append(helper.make_tensor_value_info(begin, TensorProto.FLOAT, None))
    part = GraphProto(
        name=end,
        node=[node for index, node in enumerate(source.node) if index in needed],
        initializer=[tensor for tensor in source.initializer if tensor.name in read],
        input=inputs,
        output=[helper.make_tensor_value_info(end, TensorProto.FLOAT, None)],
    )
    return ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=part)


def in_layers(model: ModelProto, layers: int) -> Sequence[ModelProto]:
    """Cut a model of this program into its embedding, each of its layers, and its end."""
    places = ["embedded", *(f"layers.{index}.hidden" for index in range(layers)), "logits"]
    return [cut(model, begin, end) for begin, end in zip([None, *places], places, strict=False)]
