"""A small random model with the demo's tokenizer, and its GGUF artifacts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from tiny import random_weights, write_checkpoint

import pythia_quant
from pythia_quant.formats.gguf.writer import write
from pythia_quant.formats.job import CodesReader, Job, Written
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.config import read_config
from pythia_quant.model.tokenizer import TOKENIZER
from pythia_quant.model.weights import WeightFiles
from pythia_quant.recipe.gguf_variant import GgufSettings

SHAPE = Architecture(
    layers=2, width=64, heads=4, mlp_width=256, vocabulary=4128, context=64, rotary_size=4, rotary_base=10000.0,
    norm_epsilon=1e-5,
)  # fmt: skip
TOKENIZER_FILE = Path(pythia_quant.__file__).parent / "model" / "demo" / TOKENIZER


def tokens(windows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(4096, (windows, length), generator=torch.Generator().manual_seed(seed))


PROBE, CALIBRATION = tokens(2, 48, seed=1), tokens(32, 64, seed=2)


def source(folder: Path, shape: Architecture = SHAPE) -> WeightFiles:
    write_checkpoint(folder, shape, random_weights(shape))
    return WeightFiles([folder / "model.safetensors"], read_config(folder / "config.json"))


def convert(model: WeightFiles, folder: Path, solved: CodesReader | None = None, **settings: Any) -> Written:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(TOKENIZER_FILE, folder / TOKENIZER)
    chosen = GgufSettings(format="gguf", **settings)
    return write(Job(model, chosen, folder, probe=PROBE, calibration=CALIBRATION, codes=solved))
