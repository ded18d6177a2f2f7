"""Graphs of others: run as exported, and refused if they could do more than compute."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from foreign_makers import export_onnx
from onnx import ModelProto, TensorProto, helper
from onnxruntime.quantization import quantize_dynamic
from tiny import TINY

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.table import FOREIGN, recognize
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.model.source import open_weights
from pythia_quant.runtimes.protocol import generate

PROBE = torch.randint(TINY.vocabulary, (2, 20), generator=torch.Generator().manual_seed(0))
KIND = FOREIGN["onnx"]


def expected_logits(source: Path) -> torch.Tensor:
    reader = open_weights(source)
    return final_hidden_states(reader, PROBE) @ head_weight(reader).float().T


def test_an_export_without_past_and_its_quantized_form(checkpoint: Path, tmp_path: Path) -> None:
    file = export_onnx(checkpoint, tmp_path / "theirs")
    assert recognize(file) is KIND
    finding = KIND.inspect(file, TINY)
    assert (finding.quantized, finding.files, finding.notes) == (False, ["onnx/model.onnx"], [])
    runtime, expected = KIND.open_runtime(file, 2), expected_logits(checkpoint)
    assert (runtime.logits(PROBE) - expected).abs().max() < 1e-3 * expected.abs().max()
    assert "without past keys" in runtime.description
    quantized = file.with_name("model_quantized.onnx")
    quantize_dynamic(file, quantized)
    assert KIND.inspect(quantized, TINY).quantized
    assert KIND.streamed_bytes(quantized) < KIND.streamed_bytes(file) / 2
    as_run = KIND.open_runtime(quantized, 2).logits(PROBE)
    assert 0 < (as_run - expected).norm() < 0.2 * expected.norm()
    with pytest.raises(ArtifactError, match="holds several graphs"):
        recognize(tmp_path / "theirs")


def test_a_graph_with_past_and_external_data_generates_what_whole_windows_say(converted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted / "out/tiny/local/onnx-fp32", tmp_path / "theirs"))
    (folder / "pythia_quant.json").unlink()
    assert recognize(folder) is KIND
    assert KIND.inspect(folder, TINY).files == ["onnx/model.onnx", "onnx/model.onnx_data"]
    runtime, expected = KIND.open_runtime(folder, 2), expected_logits(converted / "tiny")
    logits = runtime.logits(PROBE)
    assert (logits - expected).abs().max() < 1e-3 * expected.abs().max()
    prompt = PROBE[0, :8]
    added = generate(runtime, prompt, 4, ())
    whole = runtime.logits(torch.cat([prompt, torch.tensor(added)])[None])[0]
    assert whole[7:11].argmax(-1).tolist() == added


def _outside(model: ModelProto) -> None:
    tensor = next(one for one in model.graph.initializer if one.data_location == TensorProto.EXTERNAL)
    next(entry for entry in tensor.external_data if entry.key == "location").value = "../../tiny/model.safetensors"


def _beyond(model: ModelProto) -> None:
    tensor = next(one for one in model.graph.initializer if one.data_location == TensorProto.EXTERNAL)
    next(entry for entry in tensor.external_data if entry.key == "offset").value = "99999999999"


def _inner(model: ModelProto) -> None:
    node = helper.make_node("Evil", [], ["x"], domain="someone.else")
    graph = helper.make_graph([node], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_outside, "not within a file of its folder"),
        (_beyond, "bytes from byte 99999999999 on, the file"),
        (_inner, r"operators of 'someone\.else'"),
        (lambda model: model.graph.node.append(helper.make_node("Loop", [], ["x"])), "which might never end"),
        (
            lambda model: model.graph.node.append(helper.make_node("EPContext", [], ["x"], domain="com.microsoft")),
            "holds compiled code",
        ),
        (lambda model: setattr(model.graph.input[0], "name", "pixels"), "lacks the input input_ids|pixels|refuses"),
    ],
    ids=["outside", "beyond", "inner", "loop", "compiled", "input"],
)
def test_doctored_graphs_are_refused(
    converted: Path, tmp_path: Path, change: Callable[[ModelProto], object], message: str
) -> None:
    folder = Path(shutil.copytree(converted / "out/tiny/local/onnx-fp32", tmp_path / "theirs"))
    path = folder / "onnx" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=message):
        KIND.open_runtime(folder, 1)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for content in (b"", b"\x08\x07 no graph at all", bytes(range(256))):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"cannot be read as an ONNX model|is no ONNX model"):
            KIND.inspect(path, TINY)
