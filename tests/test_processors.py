"""The limit of a test's processor time, and the part of the processors that a worker has."""

import os
import subprocess
import sys
from pathlib import Path

import processors
import pytest

TESTS = """
import time, pytest

def spin():
    end = time.process_time() + 0.4
    while time.process_time() < end:
        pass

@pytest.fixture
def prepared():
    spin()

def test_that_computes():
    spin()

def test_that_has_much_prepared(prepared):
    pass

def test_that_waits():
    time.sleep(0.5)

@pytest.mark.slow
def test_for_releases():
    spin()
"""


def test_a_test_that_takes_too_long_fails_or_what_is_set_up_for_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: for releases\n")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), processors.VARIABLE: "0.3"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "processors", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "2 failed, 2 passed" in done.stdout
    assert "its call took 0." in done.stdout
    assert "its setup took 0." in done.stdout


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not kept to processors here")
def test_workers_share_the_processors() -> None:
    before = os.sched_getaffinity(0)
    parts = []
    try:
        for worker in ("gw0", "gw1"):
            os.sched_setaffinity(0, before)
            processors.share({"PYTEST_XDIST_WORKER": worker, "PYTEST_XDIST_WORKER_COUNT": "2"})
            parts.append(os.sched_getaffinity(0))
    finally:
        os.sched_setaffinity(0, before)
    assert parts[0] | parts[1] == before
    assert len(before) == 1 or not parts[0] & parts[1]
