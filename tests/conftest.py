"""A tiny checkpoint, texts and a recipe for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_checkpoint, write_recipe


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "tiny")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)
