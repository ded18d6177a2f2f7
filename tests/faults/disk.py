"""A disk that is full or fails from some write on, a limit of the size of files, and an output that vanishes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from random import Random

from faults.nursery import FAIL_ONCE, FULL_FROM, VANISH, Fault
from faults.scenes import Scene, Stage, scenes
from faults.tally import Trial

_COMMANDS = ("quantize", "run", "bench", "report", "sweep")


def trials(stage: Stage, random: Random) -> Iterator[Trial]:
    """Yield faults of disks, one scene after another, for as long as they are asked for."""
    there = [scene for scene in scenes() if scene.command in _COMMANDS and not scene.on_hub]
    while True:
        for scene in there:
            events = stage.expected(scene).events
            if events:
                place = random.randrange(events)
                yield _trial(stage, scene, "the disk full from a write on", Fault(place, FULL_FROM, errno.ENOSPC))
                yield _trial(stage, scene, "a file event fails (EIO)", Fault(place, FAIL_ONCE, errno.EIO))
                yield _trial(stage, scene, "the output vanishes", Fault(place, VANISH), vanishes=True)
            limit = random.choice((512, 4096, 20_000, 100_000))
            yield _trial(stage, scene, "a limit of the size of files", Fault(largest_file=limit))


def _trial(stage: Stage, scene: Scene, how: str, fault: Fault, *, vanishes: bool = False) -> Trial:
    def bring_about() -> None:
        expected = stage.expected(scene)
        stage.lay(scene)
        ending = stage.run(scene.arguments, fault)
        assert ending.code in (2, expected.code), (ending.code, ending.said[-2500:])
        assert "Traceback" not in ending.said, ending.said[-2500:]
        stage.check_between(scene)
        if not vanishes or scene.command in ("quantize", "run", "report"):  # a measured artifact is gone for good
            stage.check_after(scene, fault)

    return Trial(f"{how}: {scene.command}", bring_about, f"{scene.name}, {fault}")
