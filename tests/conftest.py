"""A tiny checkpoint, texts and a recipe for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import RECIPE, write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "tiny")


@pytest.fixture
def texts(tmp_path: Path) -> tuple[Path, Path]:
    """Return two text files without 13 bytes in common: one to calibrate on, one to evaluate on."""
    calibration, evaluation = tmp_path / "calibration.txt", tmp_path / "evaluation.txt"
    calibration.write_text("".join(f"{i * 7919 % 100003:x} calm " for i in range(1200)))
    evaluation.write_text("".join(f"{i * 104729 % 99991:d}; eval " for i in range(200)))
    return calibration, evaluation


@pytest.fixture
def recipe_file(tmp_path: Path, checkpoint: Path, texts: tuple[Path, Path]) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(model=checkpoint, calibration=texts[0].name, evaluation=texts[1].name))
    return path
