from io import StringIO

import pytest
from rich.console import Console

from pythia_quant.core.progress import Steps


def work(console: Console) -> None:
    with Steps(2, console) as steps:
        with steps.step("converting x") as progress:
            for layer in range(4):
                progress.step("layer", layer, 4)
            progress.step("checking", 0, 1)
        with steps.step("drift of x"):
            pass


def test_where_there_is_no_terminal_each_step_is_a_line() -> None:
    stream = StringIO()
    work(Console(file=stream))
    assert stream.getvalue() == "step 1 of 2: converting x\nstep 2 of 2: drift of x\n"


def test_a_long_step_says_once_a_minute_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now, stream = 0.0, StringIO()
    monkeypatch.setattr("pythia_quant.core.progress.monotonic", lambda: now)
    with Steps(1, Console(file=stream)) as steps, steps.step("converting x") as progress:
        for layer in range(4):
            now = 50.0 * layer
            progress.step("layer", layer, 4)
    assert stream.getvalue().splitlines()[1:] == ["step 1 of 1: converting x: layer 3/4, about 2 min left"]


def test_time_left_counts_from_where_parts_of_a_kind_began(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("pythia_quant.core.progress.monotonic", lambda: now)
    with Steps(1, Console(file=StringIO(), force_terminal=True)) as steps:
        task = steps._progress.tasks[0]
        with steps.step("converting x") as progress:
            progress.step("solved: layer", 0, 2)
            now = 3600.0
            progress.step("solved: layer", 1, 2)
            assert task.fields["left"] == 3600
            progress.step("layer", 0, 2)
            assert task.fields["left"] is None
            now = 3601.0
            progress.step("layer", 1, 2)
            assert task.fields["left"] == 1


def test_a_terminal_shows_the_step_what_is_left_and_never_goes_back() -> None:
    stream = StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    with Steps(2, console) as steps:
        task = steps._progress.tasks[0]
        with steps.step("converting x") as progress:
            progress.step("layer", 3, 4)
            assert (task.completed, task.description) == (0.75, "converting x")
            progress.step("checking", 0, 1)
            assert task.completed == 0.75
            steps._progress.refresh()
        assert task.completed == 1
    assert "step 1 of 2" in stream.getvalue()
    assert "converting x" in stream.getvalue()
    assert "s left" in stream.getvalue()
