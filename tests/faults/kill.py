"""Signals at file events and at random moments, in the program and in its whole tree of processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from random import Random

import psutil

from faults.nursery import SIGNAL_AFTER, SIGNAL_BEFORE, Fault
from faults.scenes import Scene, Stage, scenes
from faults.tally import Trial

_ASKING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_GONE_WITHIN = 10.0  # seconds


def trials(stage: Stage, random: Random) -> Iterator[Trial]:
    """Yield kills, one scene after another, until SIGKILL has come before and after every file event of each."""
    turns = [_of_scene(stage, scene, random) for scene in scenes()]
    while turns:
        for turn in list(turns):
            trial = next(turn, None)
            if trial is None:
                turns.remove(turn)
            else:
                yield trial


def _of_scene(stage: Stage, scene: Scene, random: Random) -> Iterator[Trial]:
    events = stage.expected(scene).events
    started = time.monotonic()
    stage.lay(scene)
    stage.run(scene.arguments)
    whole = time.monotonic() - started
    kills = [(event, action) for event in range(events) for action in (SIGNAL_BEFORE, SIGNAL_AFTER)]
    random.shuffle(kills)
    for number, (event, action) in enumerate(kills or [(-1, SIGNAL_BEFORE)] * 50):
        if stage.nursery.shim:
            yield _trial(stage, scene, "SIGKILL at a file event", Fault(event, action, signal.SIGKILL))
        if number % 3 == 0 and stage.nursery.shim:
            asking = random.choice(_ASKING)
            there = Fault(random.randrange(events), SIGNAL_BEFORE, asking)
            yield _trial(stage, scene, "SIGTERM, SIGHUP or SIGINT at a file event", there)
        if number % 3 == 1:
            moment = Fault(number=random.choice((signal.SIGKILL, *_ASKING)), moment=random.uniform(0.01, whole))
            yield _trial(stage, scene, "one of the four at a random moment", moment)
        if number % 6 == 2:
            ending = random.choice((signal.SIGKILL, *_ASKING))
            yield _in_its_own_processes(stage, scene, ending, random.uniform(0.5, 4 + 2 * whole))


def _trial(stage: Stage, scene: Scene, how: str, fault: Fault) -> Trial:
    def bring_about() -> None:
        stage.lay(scene)
        ending = stage.run(scene.arguments, fault)
        name = signal.Signals(fault.number)
        fine = {-int(name), 128 + name, stage.expected(scene).code}
        assert ending.code in fine, (ending.code, ending.said[-2000:])
        assert "Traceback" not in ending.said, ending.said[-2000:]
        stage.check_between(scene)
        stage.check_after(scene, fault)

    return Trial(f"{how}: {scene.command}", bring_about, f"{scene.name}, {fault}")


def _in_its_own_processes(stage: Stage, scene: Scene, number: signal.Signals, moment: float) -> Trial:
    """Run the program as users do, with its worker processes, which must end with it."""

    def bring_about() -> None:
        stage.lay(scene)
        command = [sys.executable, "-P", "-m", "pythia_quant", *scene.arguments]
        with (stage.folder / "said").open("wb") as said:
            child = subprocess.Popen(
                command, cwd=stage.here, env=stage.environment(), stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
            others: set[psutil.Process] = set()
            end = time.monotonic() + moment
            while child.poll() is None and time.monotonic() < end:
                others |= set(psutil.Process(child.pid).children(recursive=True))
                time.sleep(0.05)
            child.send_signal(number)
            code = child.wait(timeout=60)
        printed = (stage.folder / "said").read_text(errors="replace")
        # In the first half second of Python itself, before our first line runs, a signal has its plain effect.
        assert code in {-int(number), 128 + number, stage.expected(scene).code}, (code, printed[-2000:])
        _, alive = psutil.wait_procs(list(others), _GONE_WITHIN)
        assert not alive, f"processes outlive the program: {alive}"
        stage.check_between(scene)
        stage.check_after(scene, Fault())

    return Trial(f"one of the four, with its worker processes: {scene.command}", bring_about,
                 f"{scene.name}, {number.name} after {moment:.2f} s")  # fmt: skip
