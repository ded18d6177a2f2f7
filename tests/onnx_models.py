"""Random checkpoints converted to ONNX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
from tiny import TINY, random_weights, write_checkpoint
from torch import Tensor

from pythia_quant.formats.job import Job, Written
from pythia_quant.formats.onnx.kernel_check import exact_session_entries
from pythia_quant.formats.onnx.writer import write
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.weights import WeightFiles
from pythia_quant.recipe.onnx_variant import OnnxSettings

SHAPE = replace(TINY, context=320)
FP32 = {"weights": "fp32", "embeddings": "fp32", "head": "fp32"}
PROBE = torch.randint(272, (2, 24), generator=torch.Generator().manual_seed(3))


def exact_options() -> ort.SessionOptions:
    """Return options with which this CPU multiplies integers exactly, as our runtime sets them and a client has to."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    settings = OnnxSettings(format="onnx", weights="int8-channel")
    for key, value in exact_session_entries(settings, Path("model.onnx")).items():
        options.add_session_config_entry(key, value)
    return options


def tokens(rows: int, count: int) -> Tensor:
    """Return random token ids."""
    return torch.randint(SHAPE.vocabulary, (rows, count), generator=torch.Generator().manual_seed(7))


def source(folder: Path, architecture: Architecture = SHAPE, tensors: dict[str, Tensor] | None = None) -> WeightFiles:
    """Write a checkpoint, by default a random one with activations of about the same size at every width; open it."""
    if tensors is None:
        tensors = random_weights(architecture, scale=0.64 / architecture.width**0.5)
    return WeightFiles([write_checkpoint(folder, architecture, tensors) / "model.safetensors"], architecture)


def outlier_channels(architecture: Architecture, tensors: dict[str, Tensor], factor: int = 32) -> dict[str, Tensor]:
    """Scale a few value channels of every layer up and what reads them down: the same function, exactly, in fp32."""
    scaled = {name: tensor.float() for name, tensor in tensors.items()}
    size = architecture.head_size
    for layer in range(architecture.layers):
        prefix = f"gpt_neox.layers.{layer}.attention."
        for head in range(architecture.heads):
            channel = 7 * (head + 1) % size
            row = (3 * head + 2) * size + channel
            scaled[f"{prefix}query_key_value.weight"][row] *= factor
            scaled[f"{prefix}query_key_value.bias"][row] *= factor
            scaled[f"{prefix}dense.weight"][:, head * size + channel] /= factor
    return scaled


def convert(checkpoint: WeightFiles, folder: Path, **settings: Any) -> Written:
    """Convert to int8 weights with fp32 activations, unless told otherwise."""
    chosen = OnnxSettings.model_validate({"format": "onnx", "activations": "fp32", **settings})
    folder.mkdir()
    return write(Job(checkpoint, chosen, folder, PROBE))
