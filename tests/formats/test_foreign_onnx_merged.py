"""Graphs of two branches, as exporters merged a decoder without and with past: which runs is an input of the graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from tiny import TINY

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.onnx.foreign_graph import read_graph
from pythia_quant.formats.table import FOREIGN
from pythia_quant.runtimes.protocol import generate

KIND = FOREIGN["onnx"]
SHAPE = replace(TINY, layers=1)
HEADS, SIZE, WIDTH, VOCABULARY = SHAPE.heads, SHAPE.head_size, SHAPE.width, SHAPE.vocabulary
PROBE = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))
GENERATOR = np.random.default_rng(0)
EMBEDDING = GENERATOR.integers(-3, 4, (VOCABULARY, WIDTH)).astype(np.float16)  # sums of few are exact in fp16
HEAD = GENERATOR.standard_normal((WIDTH, VOCABULARY)).astype(np.float16)
PAST = [f"past_key_values.0.{part}" for part in ("key", "value")]
PRESENT = [f"present.0.{part}" for part in ("key", "value")]


def expected_logits(ids: torch.Tensor) -> torch.Tensor:
    """Return what the graph means: each token's logits are of the sum of all embeddings so far."""
    return torch.from_numpy(EMBEDDING.astype(np.float32)[ids.numpy()].cumsum(1) @ HEAD.astype(np.float32))


def branch(name: str, *, past: bool) -> GraphProto:
    """Return a branch, whose names are its own; the one without past reads none."""

    def own(one: str) -> str:
        return f"{one}/{name}"

    numbers = {"heads": [0, 0, HEADS, SIZE], "flat": [0, 0, WIDTH], "axis": [2], "first": [-1], "end": [2**62]}
    constants = [numpy_helper.from_array(np.array(value, np.int64), own(key)) for key, value in numbers.items()]
    constants += [
        numpy_helper.from_array(np.array(2, np.int64), own("two")),
        numpy_helper.from_array(HEAD, own("head")),
    ]
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], [own("rows")]),
        helper.make_node("Reshape", [own("rows"), own("heads")], [own("split")]),
        helper.make_node("Transpose", [own("split")], [own("new")], perm=[0, 2, 1, 3]),
    ]
    outputs = [own(one) for one in PRESENT]
    for old, output in zip(PAST, outputs, strict=True):
        inputs = [old, own("new")] if past else [own("new")]
        nodes.append(helper.make_node("Concat", inputs, [output], axis=2))
    nodes += [
        helper.make_node("Cast", [outputs[0]], [own("wide")], to=TensorProto.FLOAT),
        helper.make_node("CumSum", [own("wide"), own("two")], [own("sums")]),
        helper.make_node("Shape", ["input_ids"], [own("tokens")], start=1, end=2),
        helper.make_node("Neg", [own("tokens")], [own("begin")]),
        helper.make_node("Slice", [own("sums"), own("begin"), own("end"), own("axis")], [own("last")]),
        helper.make_node("Transpose", [own("last")], [own("back")], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [own("back"), own("flat")], [own("hidden")]),
        helper.make_node("Cast", [own("head")], [own("wide head")], to=TensorProto.FLOAT),
        helper.make_node("MatMul", [own("hidden"), own("wide head")], [own("product")]),
        helper.make_node("Cast", [own("product")], [own("logits")], to=TensorProto.FLOAT16),
    ]
    values = [helper.make_tensor_value_info(own("logits"), TensorProto.FLOAT16, [1, "tokens", VOCABULARY])]
    values += [helper.make_tensor_value_info(one, TensorProto.FLOAT16, None) for one in outputs]
    return helper.make_graph(nodes, name, [], values, constants)


def merged() -> ModelProto:
    names = ["logits", *PRESENT]
    node = helper.make_node(
        "If", ["use_cache_branch"], names, then_branch=branch("with", past=True), else_branch=branch("no", past=False)
    )
    cache: list[str | int | None] = ["batch", HEADS, "past", SIZE]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "all"]),
        *(helper.make_tensor_value_info(one, TensorProto.FLOAT16, cache) for one in PAST),
        helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT16, ["batch", "tokens", VOCABULARY])]
    outputs += [helper.make_tensor_value_info(one, TensorProto.FLOAT16, [*cache[:2], "all", SIZE]) for one in PRESENT]
    graph = helper.make_graph([node], "merged", inputs, outputs, [numpy_helper.from_array(EMBEDDING, "embedding")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def check(path: Path) -> None:
    """Check that the first tokens take the branch without past, and the others the one with past."""
    finding = KIND.inspect(path, SHAPE)
    assert (finding.stored, finding.quantized) == ("ONNX graph", False)
    runtime, expected = KIND.open_runtime(path, 1), expected_logits(PROBE)
    assert (runtime.logits(PROBE) - expected).abs().max() < 1e-3 * expected.abs().max()
    ids = PROBE[0, :5].tolist()
    for token in generate(runtime, torch.tensor(ids), 6, ()):
        best = expected_logits(torch.tensor([ids]))[0, -1]
        assert best[token] > best.max() - 1e-3 * best.abs().max()
        ids.append(token)


def test_the_branch_without_past_and_then_the_one_with_past_in_fp16(tmp_path: Path) -> None:
    path = tmp_path / "decoder_model_merged.onnx"
    onnx.save(merged(), path)
    check(path)
    streamed = 2 * HEAD.nbytes
    assert streamed <= KIND.streamed_bytes(path) < streamed + 1000


def test_data_of_a_branch_are_in_a_file_that_is_a_link_as_in_a_cache_of_a_hub(tmp_path: Path) -> None:
    """The cache calls a file by its hash, so that the name in the graph is replaced, also within branches."""
    folder, blobs = tmp_path / "snapshots" / ("0" * 40), tmp_path / "blobs"
    for one in (folder, blobs):
        one.mkdir(parents=True)
    model = merged()
    content = b""
    for attribute in model.graph.node[0].attribute:
        (head,) = (one for one in attribute.g.initializer if one.name.startswith("head/"))
        set_external_data(head, "model.onnx_data", len(content), len(head.raw_data))
        content += head.raw_data
        head.ClearField("raw_data")
    for name, data in (("model.onnx", model.SerializeToString()), ("model.onnx_data", content)):
        (blobs / f"hash-of-{name}").write_bytes(data)
        (folder / name).symlink_to(blobs / f"hash-of-{name}")
    check(folder / "model.onnx")
    assert list(read_graph(folder / "model.onnx").data) == ["model.onnx_data"]
    (blobs / "hash-of-model.onnx_data").write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match="bytes from byte"):
        KIND.open_runtime(folder / "model.onnx", 1)
