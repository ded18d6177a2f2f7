"""The graph against transformers, in every Pythia shape, and as clients other than ours run it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx_models import FP32, SHAPE, convert, source, tokens
from transformers import GPTNeoXForCausalLM

from pythia_quant.formats.onnx.external import find_model
from pythia_quant.runtimes.ort import open_runtime
from pythia_quant.suite import SIZES, Size

WIDEST = 768


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


@pytest.mark.parametrize("settings", [FP32, {}], ids=["fp32", "int8"])
def test_other_clients_run_it(tmp_path: Path, settings: dict[str, str]) -> None:
    """A batch, first without a past, then token by token with that run's outputs as the past; all logits are kept."""
    convert(source(tmp_path / "source"), tmp_path / "artifact", **settings)
    ids = tokens(3, 20)
    session = ort.InferenceSession(find_model(tmp_path / "artifact"), providers=["CPUExecutionProvider"])
    past = {
        f"past_key_values.{layer}.{part}": np.zeros((3, SHAPE.heads, 0, SHAPE.head_size), np.float32)
        for layer in range(SHAPE.layers)
        for part in ("key", "value")
    }
    names = [output.name for output in session.get_outputs()]
    parts = []
    for start, stop in ((0, 18), (18, 19), (19, 20)):
        inputs = {
            "input_ids": ids[:, start:stop].numpy(),
            "position_ids": np.tile(np.arange(start, stop), (3, 1)),
            "attention_mask": np.ones((3, stop), np.int64),
        }
        outputs = dict(zip(names, session.run(None, inputs | past), strict=True))
        parts.append(outputs.pop("logits"))
        past = {name.replace("present", "past_key_values"): array for name, array in outputs.items()}
    expected = open_runtime(tmp_path / "artifact", threads=1).logits(ids)
    torch.testing.assert_close(torch.from_numpy(np.concatenate(parts, axis=1)), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("settings", [FP32, {}], ids=["fp32", "int8"])
def test_model_is_valid_and_named_as_clients_expect(tmp_path: Path, settings: dict[str, str]) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact", **settings)
    path = find_model(tmp_path / "artifact")
    onnx.checker.check_model(path, full_check=True)
    graph = onnx.load(path, load_external_data=False).graph
    dims = {
        info.name: [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in [*graph.input, *graph.output]
    }
    assert dims["input_ids"] == dims["position_ids"] == ["batch_size", "sequence_length"]
    assert dims["attention_mask"] == ["batch_size", "total_sequence_length"]
    assert dims["past_key_values.1.value"] == ["batch_size", 2, "past_sequence_length", 32]
    assert dims["present.1.value"] == ["batch_size", 2, "total_sequence_length", 32]
    assert dims["logits"] == ["batch_size", "logits_length", SHAPE.vocabulary]
    required = {info.name for info in graph.input} - {tensor.name for tensor in graph.initializer}
    tokens_and_mask = {name for name in required if not name.startswith("past_key_values.")}
    assert tokens_and_mask == {"input_ids", "attention_mask", "position_ids"}
