"""Every kind of GPT-NeoX in ONNX against transformers, and what is written against what is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx_models import FP32, PROBE, SHAPE, convert, source, tokens
from tiny import random_weights
from torch import Tensor
from transformers import GPTNeoXForCausalLM

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.job import Job, Written
from pythia_quant.formats.onnx.data_file import find_model
from pythia_quant.formats.onnx.reader import read
from pythia_quant.formats.onnx.runtime import open_layers, open_runtime
from pythia_quant.formats.onnx.writer import write
from pythia_quant.model.architecture import EMBEDDING, HEAD, LINEARS, Architecture, RopeScaling, layer_name
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import final_hidden_states, head_weight, layer_tensor_names, read_layer
from pythia_quant.model.weights import WeightFiles
from pythia_quant.quantizers.blocks import quantize
from pythia_quant.quantizers.grid import Quantized, consecutive_groups
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.runtimes.protocol import logits


def heads(size: int, rotary: int, **fields: Any) -> Architecture:
    """Return a shape of two layers and two heads of a real model's size."""
    width = 2 * size
    return replace(SHAPE, width=width, heads=2, mlp_width=4 * width, rotary_size=rotary, **fields)


SEQUENTIAL = replace(SHAPE, parallel_residual=False)
MODELS = {
    "dolly-v2, 3b": heads(80, 20),
    "polyglot-ko": heads(128, 64),
    "StableLM-alpha, open-assistant": heads(128, 32),
    "gpt-neox-20b": heads(96, 24, activation="gelu_fast"),
    "RedPajama-INCITE, 3b": heads(80, 80, parallel_residual=False),
    "open-calm": heads(64, 64, parallel_residual=False),
    "rinna": heads(128, 128, parallel_residual=False, norm_epsilon=1e-6),
    "gelu_new": replace(SEQUENTIAL, activation="gelu_new"),
    "relu": replace(SHAPE, activation="relu"),
    "linear": replace(SHAPE, rope_scaling=RopeScaling("linear", 2.5)),
    "dynamic": replace(SEQUENTIAL, rope_scaling=RopeScaling("dynamic", 4.0)),
    "tied": replace(SEQUENTIAL, tied=True),
    "heads of 8": heads(8, 2),
    "heads of 88": heads(88, 88, parallel_residual=False),
    "heads of 21": heads(21, 10),
    "heads of 24": heads(24, 18),
}


def without_attention_biases(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if name.endswith(("attention.query_key_value.bias", "attention.dense.bias")):
            tensor.zero_()


def pair(
    folder: Path, shape: Architecture, edit: Callable[[dict[str, Tensor]], None] | None = None, **config: Any
) -> tuple[WeightFiles, GPTNeoXForCausalLM]:
    """Write a random checkpoint; open it as ours, and in transformers with its own reading of config.json."""
    tensors = random_weights(shape, scale=0.64 / shape.width**0.5)
    if shape.tied:
        tensors[HEAD] = tensors[EMBEDDING].clone()
    if edit:
        edit(tensors)
    weights = source(folder, shape, tensors)
    fields = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": shape.tied} | config
    (folder / "config.json").write_text(json.dumps(fields))
    return weights, GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32)


@torch.no_grad()
def agree(weights: WeightFiles, model: GPTNeoXForCausalLM, folder: Path) -> None:
    """Compare with transformers: whole, a layer at a time, and after a prompt of several pieces step by step."""
    convert(weights, folder, **FP32)
    ids = tokens(1, 264)
    expected = model(ids).logits[0]
    runtime = open_runtime(folder, threads=1)
    steps = [runtime.prefill(ids[0, :261], capacity=264), *(runtime.step(int(ids[0, at])) for at in (261, 262))]
    torch.testing.assert_close(torch.stack(steps), expected[260:263], rtol=0, atol=1e-4)
    torch.testing.assert_close(runtime.logits(ids)[0], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(logits(open_layers(folder, threads=1), ids)[0], expected, rtol=0, atol=1e-4)
    reader = read(folder)
    read_back = final_hidden_states(reader, ids) @ head_weight(reader).T
    torch.testing.assert_close(read_back[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", MODELS.values(), ids=MODELS)
def test_models_that_people_have_match_transformers(tmp_path: Path, shape: Architecture) -> None:
    agree(*pair(tmp_path / "source", shape), tmp_path / "artifact")
    onnx.checker.check_model(find_model(tmp_path / "artifact"), full_check=True)


def test_attention_without_biases_matches_transformers(tmp_path: Path) -> None:
    agree(*pair(tmp_path / "source", SEQUENTIAL, without_attention_biases, attention_bias=False), tmp_path / "artifact")


KINDS: dict[str, dict[str, Any]] = {
    "blocks": {},
    "int4": {"weights": "int4", "embeddings": "int4", "head": "int4"},
    "channels": {"weights": "int8-channel"},
    "7 bits": {"weights": "int7-channel"},
}
SHAPES = {
    "gelu": SEQUENTIAL,
    "gelu_new": replace(SEQUENTIAL, activation="gelu_new"),
    "relu": replace(SEQUENTIAL, activation="relu"),
    "parallel relu": replace(SHAPE, activation="relu"),
    "heads of 8": replace(SEQUENTIAL, heads=8, rotary_size=2),
}


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_integers_are_what_is_read_and_run(tmp_path: Path, shape: Architecture, settings: dict[str, Any]) -> None:
    written = convert(source(tmp_path / "source", shape), tmp_path / "artifact", activations="int8", **settings)
    reader = read(tmp_path / "artifact")
    from_disk = final_hidden_states(reader, PROBE) @ head_weight(reader).T
    torch.testing.assert_close(from_disk, written.logits, rtol=0, atol=2e-5)
    run = open_runtime(tmp_path / "artifact", threads=1).logits(PROBE)
    in_layers = logits(open_layers(tmp_path / "artifact", threads=1), PROBE)
    for found in (run, in_layers):
        assert 1e-4 < float((found - written.logits).norm() / written.logits.norm()) < 0.03


@pytest.mark.parametrize("kind", ["int8", "int8-channel"])
def test_the_reader_returns_exactly_what_was_meant_of_a_sequential_layer(tmp_path: Path, kind: str) -> None:
    weights = source(tmp_path / "source", SEQUENTIAL)
    convert(weights, tmp_path / "artifact", weights=kind, activations="int8")
    reader = read(tmp_path / "artifact")
    assert reader.architecture == SEQUENTIAL
    for index in range(SEQUENTIAL.layers):
        intended, stored = read_layer(weights, index), read_layer(reader, index)
        equalize(SEQUENTIAL, intended)
        for name in (f"{linear}.weight" for linear in LINEARS):
            size = 64 if kind == "int8" else intended[name].shape[1]
            intended[name] = quantize(intended[name], size).dequantize()
        assert all(torch.equal(stored[name], intended[name]) for name in intended)


@dataclass(frozen=True)
class InMemory:
    """A model's tensors in memory; those of an equalized one also in integers, blocks of 32."""

    architecture: Architecture
    tensors: dict[str, Tensor]

    def read(self, name: str) -> Tensor:
        return self.tensors[name]

    def quantized(self, name: str) -> Quantized:
        blocks = quantize(self.tensors[name], 32, bits=4)
        codes, zeros = (blocks.codes + 8).byte(), torch.full_like(blocks.scales, 8, dtype=torch.uint8)
        return Quantized(4, codes, blocks.scales, zeros, consecutive_groups(codes.shape[1], 32))


@pytest.mark.parametrize("settings", [FP32, {}], ids=["fp32", "int8"])
def test_weights_of_64_bits_are_those_of_32(tmp_path: Path, settings: dict[str, Any]) -> None:
    tensors = random_weights(SEQUENTIAL)
    data = []
    for dtype in (torch.float32, torch.float64):
        model = InMemory(SEQUENTIAL, {name: tensor.to(dtype) for name, tensor in tensors.items()})
        chosen = OnnxSettings.model_validate({"format": "onnx", "activations": "fp32", **settings})
        write(Job(model, chosen, tmp_path / str(dtype), PROBE))
        path = find_model(tmp_path / str(dtype))
        data.append(path.with_name(f"{path.name}_data").read_bytes())
    assert data[0] == data[1]


def equalized(shape: Architecture) -> InMemory:
    tensors = {name: tensor.float() for name, tensor in random_weights(shape, scale=0.08).items()}
    model = InMemory(shape, tensors)
    for index in range(shape.layers):
        layer = read_layer(model, index)
        equalize(shape, layer)
        tensors |= {f"{layer_name(index)}.{name}": tensor for name, tensor in layer.items()}
    return model


def take(model: InMemory, folder: Path) -> Written:
    settings = {"format": "onnx", "codes": "gptq", "weights": "int4", "block_size": 32, "activations": "fp32"}
    return write(Job(model, OnnxSettings.model_validate(settings | {"head": "fp32"}), folder, PROBE, codes=model))


def test_a_sequential_layer_takes_the_integers_of_another_format(tmp_path: Path) -> None:
    model = equalized(SEQUENTIAL)
    written = take(model, tmp_path / "artifact")
    reader = read(tmp_path / "artifact")
    for index in range(SEQUENTIAL.layers):
        for name in (f"{layer_name(index)}.{part}" for part in layer_tensor_names(SEQUENTIAL)):
            linear = name.endswith("weight") and "norm" not in name
            meant = quantize(model.read(name), 32, bits=4).dequantize() if linear else model.read(name)
            assert torch.equal(reader.read(name), meant)
    run = open_runtime(tmp_path / "artifact", threads=1).logits(PROBE)
    torch.testing.assert_close(run, written.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", ["input_layernorm", "post_attention_layernorm"])
def test_a_sequential_layer_whose_norm_has_a_bias_was_not_equalized(tmp_path: Path, norm: str) -> None:
    model = equalized(SEQUENTIAL)
    model.tensors[f"{layer_name(1)}.{norm}.bias"][3] = 0.5
    with pytest.raises(ArtifactError, match="was not equalized") as refusal:
        take(model, tmp_path / "artifact")
    assert refusal.value.where == layer_name(1)
