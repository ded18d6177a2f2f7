"""The graph for browsers computes what the artifact's own graph does, from the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from gptq_models import convert as solve
from gptq_models import source as gptq_source
from onnx_models import convert, source, tokens
from test_onnx_codes import take

from pythia_quant.formats.onnx import names
from pythia_quant.formats.onnx.browser_graph import browser_graph
from pythia_quant.formats.onnx.data_file import find_model
from pythia_quant.formats.onnx.runtime import open_runtime

IDS = tokens(1, 20)[0]


def last_logits(folder: Path) -> torch.Tensor:
    """Run the graph as a page does: on the artifact's own data, with weights made when it is loaded."""
    content = browser_graph(folder, unpacked=True)
    assert b"MatMulNBits" not in content
    path = find_model(folder).with_name("wasm.onnx")
    path.write_bytes(content)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {names.IDS: IDS[None].numpy(), names.MASK: np.ones((1, len(IDS)), np.int64)}
    for info in session.get_inputs():
        if info.name not in feeds:
            feeds[info.name] = np.zeros((1, info.shape[1], 0, info.shape[3]), np.float32)
    (logits,) = session.run([names.LOGITS], feeds)
    assert logits.shape[1] == 1
    return torch.from_numpy(logits[0, 0])


@pytest.mark.parametrize("settings", [{"weights": "int4", "block_size": 16}, {"weights": "int8", "block_size": 32}])
def test_weights_rounded_here(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = tmp_path / "artifact"
    convert(source(tmp_path / "source"), folder, **settings)
    expected = open_runtime(folder, threads=1).logits(IDS[None])[0, -1]
    assert torch.allclose(last_logits(folder), expected, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_of_gptq(tmp_path: Path, bits: int) -> None:
    weights = gptq_source(tmp_path / "source")
    solve(weights, tmp_path / "solved", bits=bits, group_size=32, symmetric=False)
    take(weights, tmp_path / "solved", tmp_path / "artifact")
    expected = open_runtime(tmp_path / "artifact", threads=1).logits(IDS[None])[0, -1]
    assert torch.allclose(last_logits(tmp_path / "artifact"), expected, atol=1e-4)
