"""The main job, run once for all tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from program import run
from shared import Shared, linked
from tiny import write_recipe
from workers import in_process


@pytest.fixture(scope="session")
def whole_run(shared: Shared) -> Path:
    """Run the whole main job once on a tiny checkpoint; return its folder, with what it printed in table.txt
    and progress.txt.
    """

    def make(folder: Path) -> None:
        recipe = write_recipe(folder)
        with in_process():
            done = run("run", recipe, "--out", folder / "out")
        assert done.returncode == 0, done.stderr
        (folder / "table.txt").write_text(done.stdout)
        (folder / "progress.txt").write_text(done.stderr)

    return shared("whole run", make)


@pytest.fixture
def finished(whole_run: Path, tmp_path: Path) -> Path:
    """Return a copy of it by hard links, whose files may be replaced, but not written into."""
    return linked(whole_run, tmp_path / "finished")
