"""A small study: tiny checkpoints of several seeds and steps, one missing, one corrupt, two with the same weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from tiny import TINY, random_weights, write_checkpoint, write_recipe

STEPS = (0, 1, 2, 4, 8, 16, 32, 64)

STUDY = """\
schema: 1
recipe: tiny.yaml
settings: {evaluation.windows: 3, calibration.windows: 12}
variants: [gptq-int4, onnx-int8]
sources:
  - {model: "./runs/seed1/{revision}", seed: 1, size: tiny, tokens_per_step: 100, revisions: "step0,step1,step2,step4"}
  - {model: "./runs/seed2/{revision}", seed: 2, size: tiny, tokens_per_step: 100, revisions: all}
  - {model: "./runs/seed3/{revision}", seed: 3, size: tiny, tokens_per_step: 100, revisions: "step4..step16"}
"""


def write_runs(folder: Path, seeds: int = 3) -> None:
    """Write the checkpoints ``runs/seed<S>/step<N>``, of which some have a fault."""
    for seed in range(1, seeds + 1):
        for index, step in enumerate(STEPS):
            weights = random_weights(TINY, seed=10 * seed + index)
            write_checkpoint(folder / "runs" / f"seed{seed}" / f"step{step}", weights=weights)
    runs = folder / "runs"
    shutil.rmtree(runs / "seed1/step2")
    shutil.copyfile(runs / "seed2/step64/model.safetensors", runs / "seed2/step32/model.safetensors")
    corrupt = runs / "seed3/step8/model.safetensors"
    corrupt.write_bytes(corrupt.read_bytes()[:5000])


def write_study(folder: Path) -> Path:
    """Write a study of 15 sources with 45 jobs: 39 are done once, 3 of them count twice, 3 fail, 3 are missing."""
    write_recipe(folder)
    write_runs(folder)
    path = folder / "study.yaml"
    path.write_text(STUDY)
    return path
