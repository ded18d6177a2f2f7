"""Checkpoints that differ a little from the demo model, as the steps of a training do, and a study of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

DEMO = Path(__file__).resolve().parent.parent / "pythia_quant" / "model" / "demo"


def write_checkpoint(folder: Path, draw: int, noise: float = 1e-3) -> None:
    """Write the demo model into a folder, weights scaled by 1 + `noise` · N(0, 1); `draw` decides which those are."""
    base, generator = load_file(DEMO / "model.safetensors"), torch.Generator().manual_seed(draw)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder)
    draws = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
    tensors = {name: (tensor * (1 + noise * draws[name])).half() for name, tensor in base.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_checkpoints(count: int, work: Path) -> list[str]:
    """Write ``models/step<N>`` for N from 1 to `count`; return the names."""
    names = [f"step{number}" for number in range(1, count + 1)]
    for number, name in enumerate(names, start=1):
        write_checkpoint(work / "models" / name, number)
    return names


def write_study(work: Path, revisions: list[str], variants: list[str], windows: int = 4) -> Path:
    """Write a study of these checkpoints; return its path."""
    path = work / "study.yaml"
    path.write_text(
        "schema: 1\nrecipe: demo\n"
        f"settings: {{evaluation.windows: {windows}, calibration.windows: 16, calibration.context: 128}}\n"
        f"variants: [{', '.join(variants)}]\n"
        f'sources: [{{model: "./models/{{revision}}", size: demo, revisions: "{",".join(revisions)}"}}]\n'
    )
    return path
