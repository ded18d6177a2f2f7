import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[client]'")
import ray_functions
from tiny import write_recipe

from pythia_quant.core.errors import ArtifactError, BenchmarkError, PythiaQuantError, StudyError
from pythia_quant.sweep.engine import Function, Outcome
from pythia_quant.sweep.ray_engine import RayEngine
from pythia_quant.sweep.run import PlannedStudy, plan_study, run_study
from pythia_quant.sweep.store import Store
from pythia_quant.sweep.study import load_study
from pythia_quant.sweep.table import VOLATILE, read_table
from pythia_quant.sweep.work import Task, run_task

CORES = 2


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Give the address of a cluster."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": CORES, "object_store_memory": 100 * 2**20, "include_dashboard": False},
    )
    yield cluster.address
    cluster.shutdown()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


def task(store: Path, model: str = "owner/model", threads: int = 1) -> Task:
    return Task(
        store=str(store), model=model, revision="main", recipe={}, recipe_path="tiny.yaml", jobs=[], work=None,
        keep=None, threads=threads, memory=10**9, device="cpu",
    )  # fmt: skip


def outcomes(address: str, function: Function, tasks: list[Task]) -> list[Outcome]:
    engine = RayEngine(1, address, function)
    by_index = dict(engine.run(tasks, [10**9] * len(tasks)))
    return [by_index[index] for index in range(len(tasks))]


def test_a_worker_has_the_threads_and_paths_of_its_task(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    (outcome,) = outcomes(address, ray_functions.look, [task(Path("store"), "./model")])
    assert isinstance(outcome, dict)
    assert outcome["threads"] == "1 1 1"
    assert outcome["store"] == str(tmp_path / "store")
    assert outcome["model"] == str(tmp_path / "model")
    # A module in the current folder, which may be that of a downloaded model, is not imported.
    assert str(tmp_path) not in outcome["path"].split(":")


def test_what_a_lost_worker_did_is_done_again(address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert outcomes(address, ray_functions.die_once, [task(tmp_path)]) == [{"row": "done"}]
    assert capfd.readouterr() == ("", "")


def test_each_task_has_its_own_outcome(address: str, tmp_path: Path) -> None:
    tasks = [task(tmp_path, f"owner/{name}") for name in ("succeed", "die", "refuse", "fail", "succeed")]
    done, died, refused, failed, also_done = outcomes(address, ray_functions.do_or_die, tasks)
    assert done == also_done == {"row": "done"}
    assert isinstance(died, BenchmarkError)
    assert "ended with its process" in died.what
    assert isinstance(refused, ArtifactError)
    assert (refused.what, refused.where, refused.hint) == ("is broken", "here", "mend it")
    assert isinstance(failed, BenchmarkError)
    assert failed.what == "ray_functions:do_or_die failed: RuntimeError: by accident"


class Counted(list[Task]):
    """Tasks that know how many were taken."""

    taken = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.taken += 1
        return super().__getitem__(index)


def test_few_tasks_wait_and_those_of_an_interrupted_study_end(address: str, tmp_path: Path) -> None:
    tasks = Counted([task(tmp_path, "owner/quick"), *[task(tmp_path)] * 100])
    running = RayEngine(1, address, ray_functions.linger).run(tasks, [0] * 101)
    assert next(running) == (0, {"row": "done"})
    assert tasks.taken <= 1 + 2 * CORES + 2
    while not list(tmp_path.iterdir()):
        time.sleep(0.1)
    started = time.monotonic()
    running.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 10
    # On a slow machine Ray kills a process that takes too long to be interrupted, which then leaves its file.
    assert not [mark for mark in tmp_path.iterdir() if psutil.pid_exists(int(mark.name))]


@pytest.mark.parametrize(
    ("threads", "store", "why"),
    [(CORES + 1, "", "no node of the cluster has 3 cores"), (1, "elsewhere", "the store .* is not there")],
)
def test_a_cluster_that_cannot_do_the_study_is_refused(
    address: str, tmp_path: Path, threads: int, store: str, why: str
) -> None:
    engine = RayEngine(threads, address, ray_functions.look)
    with pytest.raises(StudyError, match=why):
        list(engine.run([task(tmp_path / store, threads=threads)], [0]))


def test_the_plan_knows_the_size_of_the_cluster(address: str) -> None:
    engine = RayEngine(1, address)
    assert engine.describe() == f"the Ray cluster at {address}, 1 node with {CORES} cores"
    assert engine.at_a_time([1, 1, 1]) == CORES
    assert engine.at_a_time([2**60, 1]) == 1
    assert list(engine.run([], [])) == []


@pytest.fixture
def planned(tmp_path: Path) -> PlannedStudy:
    write_recipe(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text("{schema: 1, recipe: tiny.yaml, variants: [gptq-int4, onnx-int8], sources: [{model: ./tiny}]}")
    return plan_study(load_study(path), Store(str(tmp_path / "plan")))


class Here:
    """Does tasks in this process."""

    def describe(self) -> str:
        return "here"

    def at_a_time(self, needs: Sequence[int]) -> int:
        return min(1, len(needs))

    def run(self, tasks: Sequence[Task], needs: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
        for index, (one, _) in enumerate(zip(tasks, needs, strict=True)):
            yield index, run_task(one.model_dump(mode="json"))


@pytest.mark.parametrize("remote", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_table_is_that_of_a_process_here(
    remote: bool, address: str, planned: PlannedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tables = []
    for name, engine in (("here", Here()), ("ray", RayEngine(1, address if remote else None))):
        out = tmp_path / name
        out.mkdir()
        store = Store(str(out / "store"))
        store.check()
        outcome = run_study(planned, out, store, engine, [10**9], lambda *_: None, shared=not remote)
        lines = read_table(outcome.table)
        tables.append([{key: value for key, value in line.items() if key not in VOLATILE} for line in lines])
    assert tables[0] == tables[1]


def test_nothing_answers(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        for one in (address, f"ray://{address}"):
            with pytest.raises(StudyError, match="nothing answers there"):
                RayEngine(1, one)


HANGING = """
from pythia_quant.sweep import ray_cluster, ray_engine
ray_cluster._CONNECT_SECONDS = 1
try:
    ray_engine.RayEngine(1, "{address}")
except ray_engine.StudyError as error:
    print(error.where, error.what)
"""


def test_another_program_answers() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        script = HANGING.format(address=address)
        child = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert child.stdout == f"--address {address} there was no answer of a Ray cluster in 1 s\n"


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PythiaQuantError, match="Ray is not installed") as error:
        RayEngine(1)
    assert "pip install" in error.value.hint
