"""A tiny checkpoint, texts and a recipe for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny import write_checkpoint, write_recipe

pytest_plugins = ["hub_user"]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep references that tests make out of the user's cache."""
    os.environ["PYTHIA_QUANT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "tiny")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)
