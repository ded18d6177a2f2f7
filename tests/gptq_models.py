"""A small random model and its GPTQ artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny import random_weights, write_checkpoint

from pythia_quant.formats.gptq.writer import write
from pythia_quant.formats.job import Job, Written
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.config import read_config
from pythia_quant.model.weights import WeightFiles
from pythia_quant.recipe.variants import GptqSettings

SHAPE = Architecture(
    layers=2, width=128, heads=4, mlp_width=512, vocabulary=288, context=64, rotary_size=8, rotary_base=10000.0,
    norm_epsilon=1e-5,
)  # fmt: skip


def tokens(windows: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, SHAPE.vocabulary, (windows, length), generator=generator)


PROBE, CALIBRATION = tokens(2, 48, seed=1), tokens(32, 64, seed=2)


def source(folder: Path, weights: dict[str, torch.Tensor] | None = None) -> WeightFiles:
    write_checkpoint(folder, SHAPE, random_weights(SHAPE) if weights is None else weights)
    return WeightFiles([folder / "model.safetensors"], read_config(folder / "config.json"))


def convert(weights: WeightFiles, folder: Path, calibration: torch.Tensor = CALIBRATION, **settings: Any) -> Written:
    folder.mkdir(parents=True, exist_ok=True)
    chosen = GptqSettings(format="gptq", **settings)
    return write(Job(source=weights, settings=chosen, folder=folder, probe=PROBE, calibration=calibration))
