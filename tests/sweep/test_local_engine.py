"""The engine of this machine says of each job that it has ended: at once, and once."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from pythia_quant.core import process
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.sweep.engine import LocalEngine
from pythia_quant.sweep.work import Task

pytestmark = pytest.mark.fresh_processes


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, Path(__file__).parents[:2])))


def task(folder: Path, model: str) -> Task:
    return Task(
        store=str(folder), model=model, revision="main", recipe={}, recipe_path="", jobs=[], work=None, keep=None,
        threads=1, memory=0, device="cpu",
    )  # fmt: skip


def end_when_heard(task: dict[str, Any]) -> dict[str, str]:
    """End the first job, and the second one when somebody has heard of the first."""
    process.CALLER.part("first", "done")
    mark, deadline = Path(task["store"]) / "heard", time.monotonic() + 20
    while not mark.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return {"first": "done", "second": "failed: by nature"}


def test_a_job_is_told_while_its_task_goes_on(tmp_path: Path) -> None:
    running = LocalEngine(1, 1, end_when_heard).run([task(tmp_path, "one")], [0])
    assert next(running) == (0, {"first": "done"})
    (tmp_path / "heard").touch()
    assert list(running) == [(0, {"second": "failed: by nature"})]


def die_after_a_job(task: dict[str, Any]) -> dict[str, str]:
    """End a job, and die: the first time, or, if the model is called mortal, each time."""
    process.CALLER.part("first", "done")
    mark = Path(task["store"]) / "died"
    if task["model"] == "mortal" or not mark.exists():
        mark.touch()
        time.sleep(0.9)
        os._exit(3)
    return {"first": "done", "second": "done"}


def test_a_job_is_told_once_though_its_task_is_done_twice(tmp_path: Path) -> None:
    tasks = [task(tmp_path, "one")]
    assert list(LocalEngine(1, 1, die_after_a_job).run(tasks, [0])) == [(0, {"first": "done"}), (0, {"second": "done"})]


def test_a_task_that_dies_each_time_ends_with_an_error(tmp_path: Path) -> None:
    first, last = LocalEngine(1, 1, die_after_a_job).run([task(tmp_path, "mortal")], [0])
    assert first == (0, {"first": "done"})
    assert isinstance(last[1], BenchmarkError)
    assert "exit code 3" in last[1].what
