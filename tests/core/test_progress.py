import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pythia_quant.core.console import PrintableConsole
from pythia_quant.core.progress import Steps
from pythia_quant.core.time_left import ExpectedStep, TimeLeft


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("pythia_quant.core.progress.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def work(console: Console, clock: Clock) -> None:
    with Steps(2, console) as steps:
        with steps.step("converting x") as progress:
            for layer in range(4):
                progress.step("layer", layer, 4)
            progress.step("checking", 0, 1)
            clock.now += 42
            progress.conclude("x converted", "9.84 bits")
        with steps.step("drift of x"):
            clock.now += 120


def test_where_there_is_no_terminal_each_step_that_ended_is_a_line(clock: Clock) -> None:
    stream = StringIO()
    work(Console(file=stream), clock)
    assert stream.getvalue() == "[1/2] x converted, 42 s, 9.84 bits\n[2/2] drift of x, 2 min\n"


def test_a_step_that_fails_is_no_line() -> None:
    stream = StringIO()
    steps = Steps(1, Console(file=stream))
    with pytest.raises(ValueError, match="no"), steps, steps.step("converting x"):
        raise ValueError("no")
    assert stream.getvalue() == ""


def test_a_quiet_console_shows_nothing_and_a_verbose_one_the_parts_of_steps(clock: Clock) -> None:
    quiet, verbose = StringIO(), StringIO()
    work(PrintableConsole(file=quiet, quiet=True), clock)
    work(PrintableConsole(file=quiet, quiet=True, force_terminal=True), clock)
    console = PrintableConsole(file=verbose)
    console.verbose = True
    work(console, clock)
    assert quiet.getvalue() == ""
    assert verbose.getvalue().splitlines() == [
        "[1/2] converting x: layer 1/4",
        "[1/2] converting x: checking",
        "[1/2] x converted, 42 s, 9.84 bits",
        "[2/2] drift of x, 2 min",
    ]


def test_a_long_step_says_once_a_minute_how_far_it_is(clock: Clock) -> None:
    stream = StringIO()
    with Steps(1, Console(file=stream)) as steps, steps.step("converting x") as progress:
        for layer in range(4):
            clock.now = 50.0 * layer
            progress.step("layer", layer, 4)
    assert stream.getvalue().splitlines()[:-1] == ["[1/1] converting x: layer 3/4; 2 min left"]


def test_time_left_counts_from_where_parts_of_a_kind_began(clock: Clock) -> None:
    with (
        Steps(1, Console(file=StringIO(), force_terminal=True)) as steps,
        steps.step("converting x") as progress,
    ):
        progress.step("solved: layer", 0, 2)
        clock.now = 3600.0
        progress.step("solved: layer", 1, 2)
        assert progress.left_of_parts == 3600
        progress.step("layer", 0, 2)
        assert progress.left_of_parts is None
        clock.now = 3601.0
        progress.step("layer", 1, 2)
        assert progress.left_of_parts == 1


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_terminal_shows_one_line_that_never_wraps_or_goes_back(width: int) -> None:
    stream = StringIO()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None)
    with Steps(36, console) as steps:
        task = steps._progress.tasks[0]
        with steps.step("speed of a-variant-with-a-long-name, round 1 of 2") as progress:
            progress.step("layer", 3, 4)
            assert task.completed == 0.75
            progress.step("checking what was written against what was intended", 0, 1)
            assert task.completed == 0.75
            steps._progress.refresh()
        assert task.completed == 1
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", stream.getvalue().replace("\r", "\n")).split("\n")
    assert max(map(len, lines)) <= width
    shown = next(line for line in lines if "speed of" in line)
    assert "0/36" in shown.replace(" ", "")
    assert "0:00:00" in shown


def expected(**seconds: float) -> list[ExpectedStep]:
    return [
        ExpectedStep(name, each, kind=name[0], like=name[0] if name[0] == "s" else "") for name, each in seconds.items()
    ]


def test_nothing_is_said_of_the_time_left_until_it_means_something() -> None:
    left = TimeLeft()
    assert left.left(None, 0, None) is None
    left.expect(expected(a1=1, a2=100, b=100))
    first = left.begin("a1")
    assert first is not None
    assert left.left(first, 0.5, None) is None
    left.end(first, 1)
    assert left.left(None, 0, None) is None, "half a percent of the work is no ground for an estimate"
    second = left.begin("a2")
    assert second is not None
    left.end(second, 200)
    assert left.left(None, 0, None) == pytest.approx(200, rel=0.02)


def test_the_estimate_is_corrected_by_kind_and_by_steps_alike() -> None:
    left = TimeLeft()
    left.expect(expected(a1=10, a2=20, b1=10, s1=10, s2=999))
    for name, seconds in (("a1", 30.0), ("b1", 10.0), ("s1", 40.0)):
        step = left.begin(name)
        assert step is not None
        left.end(step, seconds)
    slow, alike = left.begin("a2"), left.begin("s2")
    assert slow is not None
    assert alike is not None
    assert left.predict(alike) == 40, "a step like one that ended takes as long, whatever was expected"
    assert 40 < left.predict(slow) < 60, "its kind is three times slower, all steps are two and a half times"


def test_a_result_that_was_there_already_does_not_make_the_rest_look_fast() -> None:
    left = TimeLeft()
    left.expect(expected(a1=60, a2=60, a3=60))
    for seconds in (60.0, 0.1):
        step = left.begin("a1" if seconds > 1 else "a2")
        assert step is not None
        left.end(step, seconds)
    assert left.left(None, 0, None) == pytest.approx(60)


def test_within_the_last_step_time_goes_down(clock: Clock) -> None:
    with Steps(3, Console(file=StringIO())) as steps:
        with steps.step("opening"):
            clock.now += 3
        steps.expect(expected(a1=10, a2=20))
        with steps.step("a1"):
            assert steps._left() is None
            clock.now += 20
        with steps.step("a2"):
            assert steps._left() == pytest.approx(40)
            clock.now += 30
            assert steps._left() == pytest.approx(10)


def test_the_time_left_is_that_of_all_jobs_of_a_command(clock: Clock) -> None:
    with Steps(2, Console(file=StringIO()), later=2) as steps:
        steps.expect(expected(a1=10, a2=10))
        with steps.step("a1"):
            clock.now += 10
        assert steps._left() == pytest.approx(10 + 2 * 20)


def test_every_step_of_a_run_was_expected(whole_run: Path) -> None:
    said = (whole_run / "progress.txt").read_text().splitlines()
    lines = [line for line in said if line.startswith("[")]  # the others say that there is little calibration text
    assert [line.partition("]")[0].replace(" ", "") for line in lines] == [
        f"[{n + 1}/{len(lines)}" for n in range(len(lines))
    ]
    assert re.fullmatch(r"\[ 5/\d+\] onnx-fp32 converted, \d+ s, \d+\.\d\d bits(; .* left)?", lines[4])
    assert not lines[-1].endswith("left"), "a step that was expected by another name would still be to come"
