"""Processes that are asked to end, or whose parent is killed: nothing goes on, and nothing is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from tiny import write_recipe
from waiting import names_below, wait_for


def convert(folder: Path, recipe: Path) -> subprocess.Popen[str]:
    """Start a conversion with a folder of its own for temporary files."""
    (folder / "tmp").mkdir(parents=True)
    arguments = ["convert", str(recipe), "--only", "onnx-fp32", "--out", str(folder / "out")]
    command = [sys.executable, "-m", "pythia_quant", *arguments]
    environment = os.environ | {"TMPDIR": str(folder / "tmp")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_conversions_that_are_asked_to_end_say_so_and_leave_nothing(tmp_path: Path) -> None:
    """Both at once, each when it has begun to write: a process takes seconds to start."""
    recipe = write_recipe(tmp_path)
    asked = {signal.SIGTERM: 143, signal.SIGHUP: 129}
    children = {number: convert(tmp_path / number.name, recipe) for number in asked}
    waiting = dict(children)

    def all_asked() -> bool:
        for number, child in list(waiting.items()):
            names = names_below(tmp_path / number.name / "out")
            if child.poll() is not None or any(name.startswith(".onnx-fp32.partial-") for name in names):
                waiting.pop(number).send_signal(number)
        return not waiting

    wait_for(all_asked)
    for number, child in children.items():
        printed, complaint = child.communicate(timeout=60)
        assert (child.returncode, printed) == (asked[number], "")
        assert complaint.splitlines()[-1] == f"ended by {number.name}; the same command goes on with what is missing"
        left = (tmp_path / number.name).rglob("*")
        assert not [path for path in left if path.is_file() or path.name.startswith((".", "pythia-quant-"))]


PARENT = "import test_interrupt_signals as t; from pythia_quant.core import process; process.call(t.linger, {})"


def linger() -> None:
    time.sleep(600)


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2])),
        "TMPDIR": str(tmp_path),
    }
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=environment)
    wait_for(lambda: parent.poll() is not None or psutil.Process(parent.pid).children())
    (worker,) = psutil.Process(parent.pid).children()
    wait_for(lambda: worker.num_threads() > 1)  # it listens
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs([worker], timeout=20)
    assert not alive
