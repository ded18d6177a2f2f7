"""A tiny checkpoint, texts and a recipe for it; how the tests share processors, processes and artifacts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.register_assert_rewrite("processors")
import processors  # noqa: E402

processors.share()  # before any module that imports torch
pytest_plugins = ["processors", "workers", "shared", "whole_run", "hub_user"]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist's own, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have one worker run a file, whose fixtures it then makes once; tests that measure time are run one by one."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep references that tests make out of the user's cache; the workers of pytest-xdist share one."""
    folder = tmp_path_factory.getbasetemp()
    root = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    os.environ["PYTHIA_QUANT_CACHE"] = str(root / "cache")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    from tiny import write_checkpoint

    return write_checkpoint(tmp_path / "tiny")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    from tiny import write_recipe

    return write_recipe(tmp_path)
