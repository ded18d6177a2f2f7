"""Small checkpoints made by code, laid out as the hub serves them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from pythia_quant.model.architecture import Architecture

TINY = Architecture(
    layers=2, width=64, heads=2, mlp_width=256, vocabulary=272, context=32, rotary_size=8, rotary_base=10000.0,
    norm_epsilon=1e-5,
)  # fmt: skip


def random_weights(architecture: Architecture, seed: int = 0, scale: float = 0.08) -> dict[str, Tensor]:
    """Return random fp16 weights whose norms and biases are not the trivial ones of an untrained model."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in architecture.tensor_shapes().items():
        values = scale * torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            values = 1 + 2 * values
        if name in ("gpt_neox.embed_in.weight", "embed_out.weight"):
            values = values * 4
        weights[name] = values.half()
    return weights


def byte_tokenizer() -> Tokenizer:
    """Return a tokenizer of 257 tokens: every byte, and the end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {symbol: i + 1 for i, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def write_checkpoint(folder: Path, architecture: Architecture = TINY, weights: dict[str, Tensor] | None = None) -> Path:
    """Write a checkpoint folder: config, safetensors, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(architecture.config()))
    tensors = random_weights(architecture) if weights is None else weights
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


RECIPE = """\
schema: 1
source: {{model: {model}}}
calibration:
  text: {{file: {calibration}}}
  windows: 16
evaluation:
  text: {{file: {evaluation}}}
  windows: 6
variants:
  bnb-nf4: {{format: bnb, compute_dtype: float32}}
  gptq-int4: {{format: gptq, group_size: 32}}
  onnx-int8: {{format: onnx}}
  onnx-fp32: {{format: onnx, weights: fp32, activations: fp32, embeddings: fp32, head: fp32}}
gates:
  onnx-int8: {{max_ppl_drift: 50, min_top1: 10}}
latency: {{rounds: 1}}
"""


def write_texts(folder: Path) -> tuple[Path, Path]:
    """Write two texts without 13 bytes in common: one to calibrate on, one to evaluate on."""
    calibration, evaluation = folder / "calibration.txt", folder / "evaluation.txt"
    calibration.write_text("".join(f"{i * 7919 % 100003:x} calm " for i in range(1200)))
    evaluation.write_text("".join(f"{i * 104729 % 99991:d}; eval " for i in range(200)))
    return calibration, evaluation


def write_recipe(folder: Path) -> Path:
    """Write a recipe with a checkpoint, `tiny`, and texts of its own."""
    calibration, evaluation = write_texts(folder)
    path = folder / "tiny.yaml"
    model = write_checkpoint(folder / "tiny")
    path.write_text(RECIPE.format(model=model, calibration=calibration.name, evaluation=evaluation.name))
    return path
