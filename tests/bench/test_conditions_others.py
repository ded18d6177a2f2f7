"""Whose processor time it was: this process's, its ended children's, or someone else's."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import NamedTuple

import psutil
import pytest

from pythia_quant.bench.conditions import ALLOWED_SHARE, OtherPrograms, busy_seconds, wait_until_quiet

pytestmark = pytest.mark.measures_time
_SPIN = "while True: pass"
_PROCESSORS = psutil.cpu_count() or 1


def test_a_process_counts_as_another_until_it_has_ended_as_a_child_of_this_one() -> None:
    others = OtherPrograms()
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", _SPIN])
    try:
        while sum(psutil.Process(child.pid).cpu_times()[:2]) < 0.5:
            time.sleep(0.05)
        running = others.share()
        of_child = sum(psutil.Process(child.pid).cpu_times()[:2]) / (time.perf_counter() - began) / _PROCESSORS
    finally:
        child.kill()
        child.wait()
    ended = others.share()
    assert running > 0.7 * of_child  # what counts them ticks a hundred times a second
    assert running - ended > 0.5 * of_child


def test_own_work_is_not_that_of_others() -> None:
    others = OtherPrograms()
    began = time.process_time()
    before = time.perf_counter()
    while time.process_time() - began < 0.5:
        pass
    elapsed = time.perf_counter() - before
    idle = 1 - 0.5 / elapsed / _PROCESSORS  # others cannot have had more than what was left
    assert others.share() < idle + 0.1


def test_time_the_host_took_is_busy_and_a_guest_s_is_counted_once() -> None:
    class Times(NamedTuple):
        user: float = 10
        system: float = 1
        idle: float = 1000
        iowait: float = 500
        steal: float = 5
        guest: float = 7

    assert busy_seconds(Times()) == 16
    assert busy_seconds(Times(guest=0)) == 16


def test_waiting_ends_after_the_time_given_when_it_never_gets_quiet() -> None:
    spinning = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(_PROCESSORS)]
    try:
        time.sleep(0.2)
        assert not wait_until_quiet(0.5)
    finally:
        for child in spinning:
            child.kill()
            child.wait()
    assert 0 < ALLOWED_SHARE < 1
