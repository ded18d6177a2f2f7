"""The functions that the program runs in fresh processes, run in this one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch

from pythia_quant.bench import speed
from pythia_quant.core import process
from pythia_quant.core.machine import cores
from pythia_quant.core.progress import SILENT, Progress


class WorkerHere:
    """Does what :class:`~pythia_quant.core.process.Worker` does, without a process. Arguments and results are JSON."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or cores()

    def __enter__(self) -> WorkerHere:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def prepare(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        """Run a function whose result nobody waits for: here, it would only take time."""

    def call(self, function: Callable[..., Any], arguments: dict[str, Any], progress: Progress = SILENT) -> Any:  # noqa: ARG002
        """Run a function."""
        threads = torch.get_num_threads()
        try:
            return json.loads(json.dumps(function(**json.loads(json.dumps(arguments)))))
        finally:
            torch.set_num_threads(threads)


@contextmanager
def in_process() -> Iterator[None]:
    """Run them in this process, and measure without waiting for a quiet machine, which it is not."""
    with (
        mock.patch.object(process, "Worker", WorkerHere),
        mock.patch.dict(speed.measure_speeds.__kwdefaults__, wait=lambda _: False),
    ):
        yield


_FRESH = process.Worker


@pytest.fixture(scope="session", autouse=True)
def _workers_here() -> Iterator[None]:
    """Save the seconds that a fresh process takes to import torch; those of its own are used by tests so marked."""
    with in_process():
        yield


@pytest.fixture(autouse=True)
def _fresh_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("fresh_processes"):
        monkeypatch.setattr(process, "Worker", _FRESH)
