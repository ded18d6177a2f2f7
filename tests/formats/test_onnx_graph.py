"""The graph against transformers, in every Pythia shape, and as clients other than ours run it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx_models import FP32, SHAPE, convert, exact_options, source, tokens
from transformers import GPTNeoXForCausalLM

from pythia_quant.formats.onnx.data_file import StoredModel, find_model
from pythia_quant.formats.onnx.runtime import open_runtime, open_session
from pythia_quant.model.suite import SIZES, Size

WIDEST = 768
Array = npt.NDArray[Any]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_pythia_shape_matches_transformers(tmp_path: Path, size: Size) -> None:
    """Real head and rotary sizes, and as many of the real heads as fit into `WIDEST`."""
    head_size = size.width // size.heads
    heads = min(size.heads, WIDEST // head_size)
    width = heads * head_size
    shape = replace(SHAPE, width=width, heads=heads, mlp_width=4 * width, rotary_size=head_size // 4)
    convert(source(tmp_path / "source", shape), tmp_path / "artifact", **FP32)
    model = GPTNeoXForCausalLM.from_pretrained(tmp_path / "source", dtype=torch.float32)
    ids = tokens(2, 150)
    with torch.no_grad():
        expected = model(ids).logits
    run = open_runtime(tmp_path / "artifact", threads=1).logits(ids)
    torch.testing.assert_close(run, expected, rtol=0, atol=1e-4)
    stored = StoredModel(find_model(tmp_path / "artifact"))
    model = stored.proto
    names = [name for node in model.graph.node for name in node.output]
    model.graph.ClearField("output")
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    inferred = open_session(model, stored, threads=1).get_outputs()
    assert {info.name for info in inferred if info.shape is not None and info.type} == set(names)
    shapes = {info.name: info.shape for info in inferred}
    assert shapes["layers.1.hidden"] == ["batch_size", "sequence_length", width]


def client(artifact: Path) -> ort.InferenceSession:
    return ort.InferenceSession(find_model(artifact), exact_options(), providers=["CPUExecutionProvider"])


def run_client(
    session: ort.InferenceSession, ids: torch.Tensor, mask: Array, past: dict[str, Array] | None = None
) -> dict[str, Array]:
    """Run as a client does that knows the names only; without a past, an empty one."""
    empty = np.zeros((len(ids), SHAPE.heads, 0, SHAPE.head_size), np.float32)
    names = [entry.name for entry in session.get_inputs()]
    inputs = past or {name: empty for name in names if name.startswith("past_key_values.")}
    results = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask, **inputs})
    return dict(zip((output.name for output in session.get_outputs()), results, strict=True))


KINDS: dict[str, dict[str, Any]] = {
    "fp32": FP32,
    "int8": {},
    "int8 activations": {"activations": "int8"},
    "int8-channel": {"activations": "int8", "weights": "int8-channel", "head": "int8-channel"},
    "int4": {"weights": "int4", "embeddings": "int4", "head": "int4"},
    "mixed": {
        "activations": "int8",
        "tensors": {
            "attention.dense": {"weights": "fp32"},
            "mlp.dense_h_to_4h": {"weights": "int8-channel"},
            "layers.1.mlp.dense_h_to_4h": {"weights": "int4", "block_size": 32, "activations": "int8x2"},
            "head": {"block_size": 16},
        },
    },
}
every_kind = pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)


@every_kind
def test_other_clients_run_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    """A batch, first without a past, then token by token with that run's outputs as the past; all logits are kept."""
    convert(source(tmp_path / "source"), tmp_path / "artifact", **settings)
    ids = tokens(3, 20)
    session = client(tmp_path / "artifact")
    past: dict[str, Array] = {}
    parts = []
    for start, stop in ((0, 18), (18, 19), (19, 20)):
        outputs = run_client(session, ids[:, start:stop], np.ones((3, stop), np.int64), past)
        parts.append(outputs.pop("logits"))
        past = {name.replace("present", "past_key_values"): array for name, array in outputs.items()}
    expected = open_runtime(tmp_path / "artifact", threads=1).logits(ids)
    run = torch.from_numpy(np.concatenate(parts, axis=1))
    if settings.get("activations") == "int8":  # sums in another order can carry a value over to the next integer
        assert (run - expected).norm() < 2e-3 * expected.norm()
    else:
        torch.testing.assert_close(run, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("length", [1, 6])
def test_rows_padded_on_the_right_are_continued_as_if_alone(tmp_path: Path, length: int) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact")
    session, ids = client(tmp_path / "artifact"), tokens(2, 9)
    ids[0, length:8] = 5
    mask = np.ones((2, 8), np.int64)
    mask[0, length:] = 0
    first = run_client(session, ids[:, :8], mask)
    past = {name.replace("present", "past_key_values"): array for name, array in first.items() if name != "logits"}
    mask = np.concatenate((mask, np.ones((2, 1), np.int64)), axis=1)
    logits = run_client(session, ids[:, 8:], mask, past)["logits"]
    alone = torch.cat((ids[:1, :length], ids[:1, 8:]), dim=1)
    expected = open_runtime(tmp_path / "artifact", threads=1).logits(alone)[0, -1]
    torch.testing.assert_close(torch.from_numpy(logits[0, 0]), expected, rtol=0, atol=2e-5)


def test_rows_padded_on_the_left_are_refused(tmp_path: Path) -> None:
    """They would be misread; the run fails in a node whose name says so."""
    convert(source(tmp_path / "source"), tmp_path / "artifact")
    with pytest.raises(Exception, match="rows_must_not_be_padded_on_the_left"):
        run_client(client(tmp_path / "artifact"), tokens(2, 5), np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]))


@every_kind
def test_model_is_valid_and_named_as_clients_expect(tmp_path: Path, settings: dict[str, Any]) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact", **settings)
    path = find_model(tmp_path / "artifact")
    onnx.checker.check_model(path, full_check=True)
    graph = onnx.load(path, load_external_data=False).graph
    dims = {
        info.name: [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in [*graph.input, *graph.output]
    }
    assert dims["input_ids"] == ["batch_size", "sequence_length"]
    assert dims["attention_mask"] == ["batch_size", "total_sequence_length"]
    assert dims["past_key_values.1.value"] == ["batch_size", 2, "past_sequence_length", 32]
    assert dims["present.1.value"] == ["batch_size", 2, "total_sequence_length", 32]
    assert dims["logits"] == ["batch_size", "logits_length", SHAPE.vocabulary]
    required = {info.name for info in graph.input} - {tensor.name for tensor in graph.initializer}
    tokens_and_mask = {name for name in required if not name.startswith("past_key_values.")}
    assert tokens_and_mask == {"input_ids", "attention_mask"}
