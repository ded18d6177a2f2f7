"""A tiny checkpoint, texts and a recipe for it; how the tests share processors, processes and artifacts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

pytest.register_assert_rewrite("processors")
import processors  # noqa: E402

processors.share()  # before any module that imports torch
pytest_plugins = ["processors", "workers", "shared", "whole_run", "hub_user", "reported", "browser"]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep references that tests make out of the user's cache; the workers of pytest-xdist share one."""
    folder = tmp_path_factory.getbasetemp()
    root = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    os.environ["PYTHIA_QUANT_CACHE"] = str(root / "cache")


@pytest.fixture(autouse=True)
def _one_at_a_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run tests that measure time one by one, also those of different files."""
    if request.node.get_closest_marker("measures_time") is None:
        yield
    else:
        with FileLock(Path(os.environ["PYTHIA_QUANT_CACHE"]).with_name("time.lock")):
            yield


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    from tiny import write_checkpoint

    return write_checkpoint(tmp_path / "tiny")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    from tiny import write_recipe

    return write_recipe(tmp_path)
