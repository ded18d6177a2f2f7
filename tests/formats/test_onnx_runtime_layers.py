"""A model run one layer at a time computes what it computes whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_models import FP32, SHAPE, convert, source, tokens

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.onnx.data_file import StoredModel, find_model
from pythia_quant.formats.onnx.reader import read
from pythia_quant.formats.onnx.runtime import cut_into_layers, open_layers, open_runtime
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.runtimes.protocol import Layered, logits


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
    pieces = cut_into_layers(model, SHAPE.layers)
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


BOTH = pytest.mark.parametrize("opener", [open_runtime, open_layers], ids=["whole", "in layers"])


@BOTH
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, opener: Callable[[Path, int], Any]) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact", **FP32)
    data = tmp_path / "artifact/onnx/model.onnx_data"
    content = bytearray(data.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    data.write_bytes(content)
    with pytest.raises(ArtifactError, match="holds values that are not finite"):
        opener(tmp_path / "artifact", 1)


@BOTH
def test_data_behind_the_links_of_the_hub_cache(tmp_path: Path, opener: Callable[[Path, int], Any]) -> None:
    """As snapshot_download leaves a folder: every file a link to one named by its hash, in another folder."""
    convert(source(tmp_path / "source"), tmp_path / "artifact")
    snapshot = tmp_path / "snapshots" / ("0" * 40)
    (tmp_path / "blobs").mkdir()
    files = [path for path in (tmp_path / "artifact").rglob("*") if path.is_file()]
    for number, path in enumerate(files):
        link = snapshot / path.relative_to(tmp_path / "artifact")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.rename(tmp_path / "blobs" / f"{number:064x}"))
    ids = tokens(1, 9)
    model = opener(snapshot, 1)
    found = logits(model, ids) if isinstance(model, Layered) else model.logits(ids)
    expected = final_hidden_states(read(snapshot), ids) @ head_weight(read(snapshot)).T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_data_in_two_folders_are_refused(tmp_path: Path) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact")
    path = find_model(tmp_path / "artifact")
    data = path.with_name(f"{path.name}_data")
    (path.parent / "elsewhere").mkdir()
    path.with_name("more").symlink_to(shutil.copy(data, path.parent / "elsewhere"))
    model = onnx.load(path, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.name == "head.codes")
    next(entry for entry in tensor.external_data if entry.key == "location").value = "more"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="names data that are in several folders"):
        open_runtime(tmp_path / "artifact", threads=1)
