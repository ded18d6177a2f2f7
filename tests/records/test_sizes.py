"""What weights take on disk, against the files themselves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from tiny import TINY, random_weights, write_checkpoint
from torch import Tensor

from pythia_quant.artifacts.artifact import hash_files
from pythia_quant.formats.job import Job
from pythia_quant.formats.onnx.data_file import StoredModel, find_model
from pythia_quant.formats.onnx.writer import write
from pythia_quant.model.architecture import ATTENTION_BIASES, HEAD, Architecture
from pythia_quant.model.source import open_source
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.records import sizes

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def as_one_file(weights: dict[str, Tensor], dtype: str) -> int:
    cast = {name: tensor.to(DTYPES[dtype]) for name, tensor in weights.items()}
    return len(save(cast, {"format": "pt"}))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        TINY,
        replace(TINY, layers=12),
        replace(TINY, width=72, heads=3, mlp_width=100, vocabulary=257),
        replace(TINY, tied=True, attention_biases=False),
    ],
)
def test_a_source_counts_as_the_file_that_safetensors_writes_of_it(shape: Architecture, dtype: str) -> None:
    weights = random_weights(shape)
    if shape.tied:
        del weights[HEAD]
    if not shape.attention_biases:
        weights = {name: tensor for name, tensor in weights.items() if not name.endswith(ATTENTION_BIASES)}
    found = sizes.checkpoint_bytes(shape, dtype)
    assert found == as_one_file(weights, dtype)
    header = found - DTYPES[dtype].itemsize * shape.parameters
    assert 0 < header < 150 * len(weights)


def write_shards(folder: Path, weights: dict[str, Tensor]) -> None:
    names = sorted(weights)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_pickle(folder: Path, weights: dict[str, Tensor]) -> None:
    masks = {f"gpt_neox.layers.{i}.attention.bias": torch.ones(1, 1, 512, 512, dtype=torch.bool) for i in range(2)}
    state = {name: tensor.float() for name, tensor in weights.items()} | masks
    torch.save({"state_dict": state}, folder / "pytorch_model.bin")


@pytest.mark.parametrize("write_weights", [None, write_shards, write_pickle])
def test_a_source_counts_the_same_however_it_is_stored(tmp_path: Path, write_weights: Any) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    whole = (folder / "model.safetensors").stat().st_size
    if write_weights:
        (folder / "model.safetensors").unlink()
        write_weights(folder, random_weights(TINY))
    source = open_source(str(folder))
    assert sizes.checkpoint_bytes(source.architecture, "float16") == whole
    assert sizes.checkpoint_bytes(source.architecture, "float32") == as_one_file(random_weights(TINY), "float32")


def test_the_order_of_variants_is_that_of_their_files_not_of_their_tensors(tmp_path: Path) -> None:
    demo = open_source("builtin:demo")
    variants = load_recipe("demo").settings.variants
    on_disk, in_tensors = {}, {}
    for name in ("onnx-int8", "onnx-int8-dynamic"):
        folder = tmp_path / name
        settings = variants[name]
        assert isinstance(settings, OnnxSettings)
        write(Job(demo.weights, settings, folder, torch.zeros(1, 2, dtype=torch.int64)))
        (folder / "tokenizer.json").write_text("x" * 300_000)
        on_disk[name] = sizes.of_weight_files({name: file.bytes for name, file in hash_files(folder).items()})
        assert on_disk[name] == sum(path.stat().st_size for path in (folder / "onnx").iterdir())
        in_tensors[name] = sum(StoredModel(find_model(folder)).tensor_bytes().values())
    parameters = demo.architecture.parameters
    bits = {name: round(sizes.bits_per_weight(size, parameters), 1) for name, size in on_disk.items()}
    assert bits == {"onnx-int8": 9.0, "onnx-int8-dynamic": 9.3}
    assert in_tensors["onnx-int8"] > in_tensors["onnx-int8-dynamic"]
