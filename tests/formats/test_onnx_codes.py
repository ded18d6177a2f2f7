"""One solve, two formats: an ONNX artifact that stores the integers of a GPTQ artifact."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from gptq_models import PROBE, SHAPE, convert, source
from safetensors.torch import load_file, save_file
from stored_codes import gptq_integers, onnx_tensors, spread

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.gptq.reader import read as read_gptq
from pythia_quant.formats.job import Job, Written
from pythia_quant.formats.onnx.data_file import find_model
from pythia_quant.formats.onnx.reader import read as read_onnx
from pythia_quant.formats.onnx.rotary import separate
from pythia_quant.formats.onnx.runtime import open_layers, open_runtime
from pythia_quant.formats.onnx.writer import write
from pythia_quant.model.architecture import LINEARS, layer_name
from pythia_quant.model.forward import final_hidden_states, head_weight, read_layer
from pythia_quant.model.weights import WeightFiles
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.runtimes import protocol

Array = npt.NDArray[Any]

GRIDS = [(4, 32, True), (4, 32, False), (4, 128, False), (8, 64, True), (8, 128, False)]
"""Bits, group size, and whether the middle is zero."""
MEMBERS = {
    "inner": ("attention.query_key_value", "mlp.dense_h_to_4h"),
    "outer": ("attention.dense", "mlp.dense_4h_to_h"),
}


def take(weights: WeightFiles, solved: Path, folder: Path, **settings: Any) -> Written:
    """Write an ONNX artifact, but for the layers in fp32 unless told otherwise, with the integers of a GPTQ one."""
    fields = json.loads((solved / "config.json").read_text())["quantization_config"]
    chosen = {
        "codes": "gptq",
        "weights": f"int{fields['bits']}",
        "block_size": fields["group_size"],
        "activations": "fp32",
        "embeddings": "fp32",
        "head": "fp32",
    }
    folder.mkdir()
    onnx_settings = OnnxSettings.model_validate({"format": "onnx", **chosen, **settings})
    return write(Job(weights, onnx_settings, folder, PROBE, codes=read_gptq(solved)))


@pytest.fixture
def weights(tmp_path: Path) -> WeightFiles:
    return source(tmp_path / "source")


@dataclass(frozen=True)
class Pair:
    """A GPTQ artifact, and an ONNX one with its integers."""

    gptq: Path
    onnx: Path
    written: Written
    bits: int
    symmetric: bool


@pytest.fixture(scope="module", params=GRIDS, ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    bits, group_size, symmetric = request.param
    folder = tmp_path_factory.mktemp("pair")
    weights = source(folder / "source")
    convert(weights, folder / "gptq", bits=bits, group_size=group_size, symmetric=symmetric)
    written = take(weights, folder / "gptq", folder / "onnx")
    return Pair(folder / "gptq", folder / "onnx", written, bits, symmetric)


def test_both_files_hold_the_same_integers(pair: Pair) -> None:
    bits, tensors = pair.bits, onnx_tensors(pair.onnx)
    order = separate(torch.arange(3 * SHAPE.width), SHAPE).numpy()
    for index in range(SHAPE.layers):
        for name, members in MEMBERS.items():
            parts = [gptq_integers(pair.gptq, f"{layer_name(index)}.{member}", bits) for member in members]
            if name == "inner":
                parts[0] = tuple(part[order] for part in parts[0])
            axis = {"inner": 0, "outer": 1}[name]
            codes, scales, zeros = (np.concatenate(part, axis) for part in zip(*parts, strict=True))
            product = f"layers.{index}.{name}"
            stored = tensors[f"{product}.codes"]
            assert stored.shape[:2] == scales.shape
            np.testing.assert_array_equal(spread(stored.reshape(len(stored), -1), bits, codes.shape[1]), codes)
            np.testing.assert_array_equal(tensors[f"{product}.scales"], scales)
            if pair.symmetric:
                assert (zeros == 2 ** (bits - 1)).all()
                assert f"{product}.zero_points" not in tensors
            else:
                found = spread(tensors[f"{product}.zero_points"], bits, zeros.shape[1])
                np.testing.assert_array_equal(found, zeros)
                assert len(np.unique(zeros)) > 2


def test_the_reader_and_the_runtime_give_what_gptq_gives(pair: Pair) -> None:
    solved, stored = read_gptq(pair.gptq), read_onnx(pair.onnx)
    for index in range(SHAPE.layers):
        expected = read_layer(solved, index)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in read_layer(stored, index).items())
    logits = final_hidden_states(solved, PROBE) @ head_weight(solved).T
    largest = float(logits.abs().max())
    run = open_runtime(pair.onnx, threads=1).logits(PROBE)
    in_layers = protocol.logits(open_layers(pair.onnx, threads=1), PROBE)
    for found in (pair.written.logits, run, in_layers):
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-4 * largest)
    onnx.checker.check_model(find_model(pair.onnx), full_check=True)


@pytest.mark.parametrize("symmetric", [True, False])
def test_integer_activations_are_near(weights: WeightFiles, tmp_path: Path, symmetric: bool) -> None:
    convert(weights, tmp_path / "gptq", symmetric=symmetric, group_size=32)
    settings = {"activations": "int8", "embeddings": "int8", "head": "int8"}
    written = take(weights, tmp_path / "gptq", tmp_path / "onnx", **settings)
    run = open_runtime(tmp_path / "onnx", threads=1).logits(PROBE)
    assert 1e-3 < float((run - written.logits).norm() / written.logits.norm()) < 0.02


def test_only_the_products_that_need_zero_points_have_them(weights: WeightFiles, tmp_path: Path) -> None:
    """One zero of a symmetric artifact is moved; what is merged with it has the middle for zero there."""
    convert(weights, tmp_path / "gptq", group_size=32)
    path = tmp_path / "gptq/model.safetensors"
    tensors = load_file(path)
    tensors[f"{layer_name(1)}.mlp.dense_4h_to_h.qzeros"][3, 0] ^= 1 << 4  # group 3, output 1: 7 becomes 6, read as 7
    save_file(tensors, path, metadata={"format": "pt"})
    take(weights, tmp_path / "gptq", tmp_path / "onnx")
    stored = onnx_tensors(tmp_path / "onnx")
    assert [name for name in stored if name.endswith("zero_points")] == ["layers.1.outer.zero_points"]
    zeros = spread(stored["layers.1.outer.zero_points"], 4, 20)
    assert zeros[1, 4 + 3] == 7
    assert (zeros != 8).sum() == 1
    solved, read = read_gptq(tmp_path / "gptq"), read_onnx(tmp_path / "onnx")
    for name in (f"{layer_name(1)}.{linear}.weight" for linear in LINEARS):
        assert torch.equal(read.read(name), solved.read(name))


@pytest.mark.parametrize("name", ["post_attention_layernorm.weight", "mlp.dense_4h_to_h.bias"])
def test_layers_that_were_not_equalized_are_refused(weights: WeightFiles, tmp_path: Path, name: str) -> None:
    convert(weights, tmp_path / "gptq")
    path = tmp_path / "gptq/model.safetensors"
    tensors = load_file(path)
    tensors[f"{layer_name(1)}.{name}"][5] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="was not equalized") as refusal:
        take(weights, tmp_path / "gptq", tmp_path / "onnx")
    assert refusal.value.where == layer_name(1)
