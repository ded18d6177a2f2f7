from io import StringIO

from rich.console import Console

from pythia_quant.progress import Steps


def work(console: Console) -> None:
    with Steps(2, console) as steps:
        with steps.step("converting x") as report:
            for layer in range(4):
                report("layer", layer, 4)
            report("checking", 0, 1)
        with steps.step("drift of x"):
            pass


def test_nothing_is_printed_where_there_is_no_terminal() -> None:
    stream = StringIO()
    work(Console(file=stream))
    assert stream.getvalue() == ""


def test_a_terminal_shows_the_step_what_is_left_and_never_goes_back() -> None:
    stream = StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    with Steps(2, console) as steps:
        task = steps._progress.tasks[0]
        with steps.step("converting x") as report:
            report("layer", 3, 4)
            assert (task.completed, task.description) == (0.75, "converting x")
            report("checking", 0, 1)
            assert task.completed == 0.75
            steps._progress.refresh()
        assert task.completed == 1
    assert "step 1 of 2" in stream.getvalue()
    assert "converting x" in stream.getvalue()
    assert "s left" in stream.getvalue()
