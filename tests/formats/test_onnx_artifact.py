"""What the writer stores, the reader returns and the runtime computes is one model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from heard import Heard
from onnx_models import FP32, PROBE, SHAPE, convert, source
from tiny import random_weights

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.job import Job
from pythia_quant.formats.onnx.data_file import PAGE, StoredModel, find_model
from pythia_quant.formats.onnx.reader import read
from pythia_quant.formats.onnx.runtime import open_runtime
from pythia_quant.formats.onnx.writer import write
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS
from pythia_quant.model.config import read_config
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import final_hidden_states, head_weight, read_layer
from pythia_quant.model.weights import WeightFiles
from pythia_quant.quantizers.blocks import quantize
from pythia_quant.recipe.onnx_variant import OnnxSettings


@pytest.fixture
def weights(tmp_path: Path) -> WeightFiles:
    return source(tmp_path / "source")


@pytest.fixture
def artifact(weights: WeightFiles, tmp_path: Path) -> Path:
    convert(weights, tmp_path / "artifact")
    return tmp_path / "artifact"


KINDS = ("fp32", "int8", "int4", "int8-channel", "int7-channel")


EMBEDDING_KINDS = ("fp32", "int8", "int4")  # they are looked up by rows
MULTIPLIED = ("weights", "head", "attention.dense", "mlp.dense_h_to_4h")


@pytest.mark.parametrize(("tensor", "kind"), [*product(MULTIPLIED, KINDS), *product(("embeddings",), EMBEDDING_KINDS)])
def test_written_read_and_run_agree(weights: WeightFiles, tmp_path: Path, tensor: str, kind: str) -> None:
    """One kind of tensor is stored in every way in turn, the others in int8 blocks."""
    chosen: dict[str, Any] = {tensor: kind} if tensor in FP32 else {"tensors": {tensor: {"weights": kind}}}
    rounds = kind.endswith("channel")
    written = convert(weights, tmp_path / "artifact", activations="int8" if rounds else "fp32", **chosen)
    reader = read(tmp_path / "artifact")
    from_disk = final_hidden_states(reader, PROBE) @ head_weight(reader).T
    torch.testing.assert_close(from_disk, written.logits, rtol=0, atol=1e-5)
    run = open_runtime(tmp_path / "artifact", threads=1).logits(PROBE)
    if rounds:
        assert 1e-4 < (run - written.logits).abs().mean() < 0.1
    else:
        torch.testing.assert_close(run, written.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_source_types_give_the_same(weights: WeightFiles, tmp_path: Path, dtype: torch.dtype) -> None:
    """The weights are rounded to bf16 first, so that every type holds them exactly."""
    rounded = {name: weights.read(name).bfloat16() for name in SHAPE.tensor_shapes()}

    def logits(kind: torch.dtype) -> torch.Tensor:
        tensors = {name: tensor.to(kind) for name, tensor in rounded.items()}
        return convert(source(tmp_path / f"{kind}", tensors=tensors), tmp_path / f"{kind} artifact").logits

    assert torch.equal(logits(dtype), logits(torch.float32))


@pytest.mark.parametrize("block_size", [16, 32, 64])
def test_reader_returns_exactly_what_was_intended(weights: WeightFiles, tmp_path: Path, block_size: int) -> None:
    convert(weights, tmp_path / "artifact", block_size=block_size)
    reader = read(tmp_path / "artifact")
    assert reader.architecture == read_config(tmp_path / "artifact/config.json") == SHAPE

    for index in range(SHAPE.layers):
        intended = read_layer(weights, index)
        equalize(SHAPE, intended)
        for name in LINEARS:
            intended[f"{name}.weight"] = quantize(intended[f"{name}.weight"], block_size).dequantize()
        stored = read_layer(reader, index)
        assert stored.keys() == intended.keys()
        assert all(torch.equal(stored[name], intended[name]) for name in stored)
    for name in (EMBEDDING, HEAD):
        assert torch.equal(reader.read(name), quantize(weights.read(name), block_size).dequantize())
    for part in ("weight", "bias"):
        assert torch.equal(reader.read(f"{FINAL_NORM}.{part}"), weights.read(f"{FINAL_NORM}.{part}").float())


def test_fp32_artifact_is_the_source(weights: WeightFiles, tmp_path: Path) -> None:
    written = convert(weights, tmp_path / "artifact", **FP32)
    expected = final_hidden_states(weights, PROBE) @ head_weight(weights).T
    torch.testing.assert_close(written.logits, expected, rtol=0, atol=1e-5)
    assert find_model(tmp_path / "artifact").name == "model.onnx"


def test_int8_activations_are_near(weights: WeightFiles, tmp_path: Path) -> None:
    written = convert(weights, tmp_path / "artifact", activations="int8")
    run = open_runtime(tmp_path / "artifact", threads=1).logits(PROBE)
    assert 1e-3 < (run - written.logits).abs().mean() < 0.05


def test_files_hold_every_tensor_page_aligned(artifact: Path) -> None:
    names = {str(path.relative_to(artifact)) for path in artifact.rglob("*") if path.is_file()}
    assert names == {"config.json", "genai_config.json", "onnx/model_quantized.onnx", "onnx/model_quantized.onnx_data"}
    graph = StoredModel(find_model(artifact)).proto.graph
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in graph.initializer]
    assert all(int(place["offset"]) % PAGE == 0 for place in places if place)


def test_tensor_bytes_count_codes_scales_and_fp32(artifact: Path) -> None:
    d, m = SHAPE.width, SHAPE.mlp_width
    quantized = 2 * SHAPE.vocabulary * d + SHAPE.layers * (4 * d * d + 2 * d * m)
    kept = 2 * d + SHAPE.layers * (d + 3 * d + m + d)
    stored = StoredModel(find_model(artifact)).tensor_bytes()
    assert sum(stored.values()) == quantized + quantized // 64 * 4 + kept * 4


def test_progress_is_reported(weights: WeightFiles, tmp_path: Path) -> None:
    heard = Heard()
    settings = OnnxSettings(format="onnx")
    write(Job(weights, settings, tmp_path / "artifact", PROBE, progress=heard))
    assert heard.steps == [("embeddings", 0, 1), ("layer", 0, 2), ("layer", 1, 2), ("head", 0, 1)]


@pytest.mark.parametrize("opener", [read, lambda folder: open_runtime(folder, threads=1)], ids=["reader", "runtime"])
class TestDamagedArtifacts:
    """Reader and runtime say the same about an artifact they cannot use."""

    def test_missing_model(self, artifact: Path, opener: Callable[[Path], object]) -> None:
        find_model(artifact).unlink()
        with pytest.raises(ArtifactError, match=r"holds no onnx/model\.onnx"):
            opener(artifact)

    def test_missing_data(self, artifact: Path, opener: Callable[[Path], object]) -> None:
        (artifact / "onnx/model_quantized.onnx_data").unlink()
        with pytest.raises(ArtifactError, match=r"model_quantized\.onnx_data: is missing; embeddings\.codes"):
            opener(artifact)

    def test_truncated_data(self, artifact: Path, opener: Callable[[Path], object]) -> None:
        data = artifact / "onnx/model_quantized.onnx_data"
        data.write_bytes(data.read_bytes()[:-1])
        with pytest.raises(ArtifactError, match=r"is truncated: head\.scales ends at byte"):
            opener(artifact)

    def test_data_of_another_artifact(self, artifact: Path, tmp_path: Path, opener: Callable[[Path], object]) -> None:
        convert(source(tmp_path / "other", tensors=random_weights(SHAPE, seed=1)), tmp_path / "other artifact")
        data = artifact / "onnx/model_quantized.onnx_data"
        shutil.copyfile(tmp_path / "other artifact/onnx/model_quantized.onnx_data", data)
        with pytest.raises(ArtifactError, match=r"onnx_data: are not the data of model_quantized\.onnx"):
            opener(artifact)

    def test_truncated_model(self, artifact: Path, opener: Callable[[Path], object]) -> None:
        model = find_model(artifact)
        model.write_bytes(model.read_bytes()[:-100])
        with pytest.raises(ArtifactError, match="cannot be read as an ONNX model"):
            opener(artifact)

    def test_model_of_another_program(self, artifact: Path, opener: Callable[[Path], object]) -> None:
        model = onnx.load(find_model(artifact), load_external_data=False)
        model.ClearField("metadata_props")
        find_model(artifact).write_bytes(model.SerializeToString())
        with pytest.raises(ArtifactError, match="is not a model that this program wrote"):
            opener(artifact)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("location", "../secret"),
            ("location", "/etc/passwd"),
            ("location", ".."),
            ("location", ""),
            ("offset", "-8"),
        ],
    )
    def test_data_outside_the_file(
        self, artifact: Path, opener: Callable[[Path], object], key: str, value: str
    ) -> None:
        path = find_model(artifact)
        (artifact / "secret").write_bytes(bytes(2**20))
        model = onnx.load(path, load_external_data=False)
        tensor = next(t for t in model.graph.initializer if t.name == "head.codes")
        next(entry for entry in tensor.external_data if entry.key == key).value = value
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ArtifactError, match=r"head\.codes .*not .* beside the model"):
            opener(artifact)
