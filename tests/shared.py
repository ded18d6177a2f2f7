"""What many tests read, made once for all of them and all workers of pytest-xdist."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from tiny import write_recipe

Make = Callable[[Path], object]
Shared = Callable[[str, Make], Path]


def linked(source: Path, target: Path) -> Path:
    """Copy a folder by hard links, which costs nothing. Who changes a file in place changes that of all tests."""
    return Path(shutil.copytree(source, target, copy_function=os.link, symlinks=True, dirs_exist_ok=True))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Return a function that gives the folder of a name: filled by the worker that first asks for it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def folder_of(name: str, make: Make) -> Path:
        folder, done = root / "shared" / name, root / "shared" / f"{name}.done"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(root / "shared" / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                try:
                    make(folder)
                except BaseException:
                    shutil.rmtree(folder)
                    raise
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def converted(shared: Shared) -> Path:
    """Return a folder with the tiny recipe, source, texts, and artifacts under ``out``; nothing there may change."""

    def make(folder: Path) -> None:
        from pythia_quant.artifacts.convert import convert
        from pythia_quant.artifacts.inputs import load_inputs
        from pythia_quant.recipe.recipe import load_recipe

        inputs = load_inputs(load_recipe(write_recipe(folder)))
        for name in inputs.recipe.settings.variants:
            convert(inputs, name, folder / "out")

    return shared("converted", make)
