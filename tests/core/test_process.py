import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from heard import Heard

from pythia_quant.core import process
from pythia_quant.core.errors import ArtifactError, BenchmarkError

pytestmark = pytest.mark.fresh_processes


def greet(name: str) -> str:
    process.CALLER.step("greeting", 1, 2)
    return f"hello {name}"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise ArtifactError("is broken", where="here", hint="mend it")


def fail() -> None:
    raise RuntimeError("by accident")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, Path(__file__).parents[:2])))


def test_a_result_comes_back() -> None:
    assert process.call(greet, {"name": "you"}, threads=1) == "hello you"


def test_progress_comes_back() -> None:
    heard = Heard()
    with process.Worker() as worker:
        worker.call(linger, {}, heard)
    assert heard.steps == [("lingering", 3, 4)]


def test_parts_come_back_while_the_function_runs_and_each_call_has_its_own() -> None:
    heard, others = Heard(), Heard()
    with process.Worker() as worker:
        worker.call(end_parts, {"names": ["one", "two\u2028", "three"]}, heard)
        worker.call(end_parts, {"names": ["four"]}, others)
    assert heard.parts == [("one", "done"), ("two\u2028", "done"), ("three", "done")]
    assert others.parts == [("four", "done")]


def end_parts(names: list[str]) -> None:
    import time

    for name in names:
        process.CALLER.part(name, "done")
    time.sleep(0.9)


def linger() -> None:
    import time

    process.CALLER.step("lingering", 3, 4)
    time.sleep(1.5)


def test_a_call_begins_after_what_was_prepared() -> None:
    with process.Worker() as worker:
        worker.prepare(prepare, {"content": "set"})
        assert worker.call(prepared, {}) == "set"


def prepare(content: str) -> None:
    os.environ["PREPARED"] = content


def prepared() -> str:
    return os.environ["PREPARED"]


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (refuse, ArtifactError, r"here: is broken\n  mend it"),
        (die, BenchmarkError, "was killed, most likely because the machine ran out of memory"),
        (fail, BenchmarkError, "failed with exit code 1: RuntimeError: by accident"),
    ],
)
def test_what_goes_wrong_there_is_said_here(function: Callable[[], None], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        process.call(function, {})


def test_a_worker_is_one_process_until_it_dies() -> None:
    with process.Worker(threads=1) as worker:
        first, second = (worker.call(number, {}) for _ in range(2))
        with pytest.raises(BenchmarkError):
            worker.call(die, {})
        third = worker.call(number, {})
    assert first == second != third
    assert os.getpid() not in (first, third)


def number() -> int:
    return os.getpid()


def test_outside_of_a_call_progress_goes_nowhere() -> None:
    process.CALLER.step("nothing", 0, 1)


def test_nothing_in_the_current_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('code of a downloaded folder ran')")
    monkeypatch.chdir(tmp_path)
    assert process.call(greet, {"name": "you"}) == "hello you"
