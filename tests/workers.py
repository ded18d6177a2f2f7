"""The functions that the program runs in fresh processes, run in this one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any
from unittest import mock

import pytest
import torch

from pythia_quant.bench import speed
from pythia_quant.core import process
from pythia_quant.core.machine import cores
from pythia_quant.core.progress import SILENT, Progress

_ALONE = RLock()  # processes have settings of torch of their own, threads share them


class WorkerHere(process.Here):
    """A :class:`~pythia_quant.core.process.Worker` without a process, which leaves torch's threads as they are."""

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads or cores())

    def call(self, function: Callable[..., Any], arguments: dict[str, Any], progress: Progress = SILENT) -> Any:
        """Run a function, whose arguments are JSON as well."""
        with _ALONE:
            threads = torch.get_num_threads()
            try:
                return super().call(function, json.loads(json.dumps(arguments)), progress)
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
