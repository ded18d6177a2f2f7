"""A model run one layer at a time computes what it computes whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx_models import FP32, SHAPE, convert, source, tokens

from pythia_quant.errors import ArtifactError
from pythia_quant.formats.onnx.external import StoredModel, find_model
from pythia_quant.formats.onnx.pieces import in_layers
from pythia_quant.runtimes.layered import logits
from pythia_quant.runtimes.ort import open_runtime
from pythia_quant.runtimes.ort_layers import open_layers


@pytest.mark.parametrize("settings", [FP32, {}, {"activations": "int8", "weights": "int8-channel"}])
def test_same_logits(tmp_path: Path, settings: dict[str, Any]) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact", **settings)
    ids = tokens(2, 30)
    whole, layers = open_runtime(tmp_path / "artifact", threads=1), open_layers(tmp_path / "artifact", threads=1)
    torch.testing.assert_close(logits(layers, ids), whole.logits(ids), rtol=0, atol=1e-5)
    assert layers.description == f"{whole.description}, layer by layer"


def test_each_piece_holds_its_own_layer_only(tmp_path: Path) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact")
    model = StoredModel(find_model(tmp_path / "artifact")).proto
    pieces = in_layers(model, SHAPE.layers)
    assert len(pieces) == SHAPE.layers + 2
    held = [
        {t.name for t in piece.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL} for piece in pieces
    ]
    assert held[0] == {"embeddings.codes", "embeddings.scales"}
    assert {name.split(".")[1] for name in held[2]} == {"1"}
    every = {t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
    assert set.union(*held) == every
    assert sum(map(len, held)) == len(every)


def test_damaged_data_are_named(tmp_path: Path) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact")
    (tmp_path / "artifact/onnx/model_quantized.onnx_data").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        open_layers(tmp_path / "artifact", threads=1)
