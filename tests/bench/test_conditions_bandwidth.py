"""The speed of memory: a buffer of any size, read by each kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pythia_quant.bench.conditions import read_speed, read_speeds


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [1, 1_000_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_kernel_reads_a_buffer_of_any_size(size: int, threads: int) -> None:
    speeds = read_speeds(size, threads, seconds=0.01)
    assert len(speeds) == 3
    assert min(speeds.values()) > 1e5
    assert torch.get_num_threads() == threads


def test_one_speed_is_that_of_a_kernel() -> None:
    assert read_speed(100_000, threads=1) > 1e6
