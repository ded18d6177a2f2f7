"""The suite of `make faults` in its shortest form, and that it notices what is not survived."""

from pathlib import Path
from random import Random
from signal import SIGKILL

import pytest
from faults.disk import _trial as disk_trial
from faults.kill import _trial as kill_trial
from faults.nursery import FULL_FROM, SIGNAL_AFTER, Fault
from faults.scenes import Stage, scenes
from faults.tally import BEGIN, END, Tally, Trial, write_table


def test_a_kill_and_a_full_disk_at_a_file_event_are_survived(tmp_path: Path) -> None:
    scene = next(scene for scene in scenes() if scene.name == "onnx-int8")
    random, stage, tally = Random(0), Stage(tmp_path), Tally()
    try:
        if stage.nursery.shim is None:
            pytest.skip("no C compiler")
        events = stage.expected(scene).events
        assert events > 20
        tally.attempt(kill_trial(stage, scene, "kill", Fault(random.randrange(events), SIGNAL_AFTER, SIGKILL)))
        tally.attempt(disk_trial(stage, scene, "disk", Fault(random.randrange(events), FULL_FROM, 28)))
    finally:
        stage.close()
    assert not tally.losses
    assert tally.survived == {"kill: quantize": 1, "disk: quantize": 1}


def test_what_is_not_survived_is_counted_and_said(tmp_path: Path) -> None:
    def lose() -> None:
        raise AssertionError("half an artifact was accepted")

    tally, page = Tally(), tmp_path / "page.md"
    assert tally.attempt(Trial("kill", lambda: None, "event 1"))
    assert not tally.attempt(Trial("kill", lose, "event 2"))
    assert tally.losses == ["kill, event 2: AssertionError: half an artifact was accepted"]
    page.write_text(f"before\n{BEGIN}old\n{END}after\n")
    write_table(page, tally.table())
    assert "| kill | 2 | 1 |\n| all | 2 | 1 |\n" in page.read_text()
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")
