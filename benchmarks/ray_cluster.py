"""A study on a Ray cluster of several nodes on this machine: ``python benchmarks/ray_cluster.py --work /tmp/ray``.

A study of perturbed copies of the demo model runs with the local engine, then with Ray on two and four nodes; while a
node is killed and another one joins; with a driver that is killed and started again; and with a head that is killed and
started again. Each table must be equal to the local one, but for times. Then 10,000 simulated jobs run on 64 workers.
A simulated job takes 0.5 s for 10 s: the jobs' clock is compressed, and that of the driver is not, so what the driver
and Ray add is what they add to jobs of 10 s, at 20 times the rate. 64 processes that only wait do not need 64 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import simulated_job
from perturbed import write_checkpoints, write_study
from ray.cluster_utils import Cluster

from pythia_quant.bench.latency import peak_rss
from pythia_quant.core import machine
from pythia_quant.sweep.engine import Engine, LocalEngine
from pythia_quant.sweep.jobs import FLOOR, Group, Job
from pythia_quant.sweep.needs import needs_of
from pythia_quant.sweep.ray_engine import RayEngine
from pythia_quant.sweep.run import PlannedStudy, plan_study, run_study
from pythia_quant.sweep.sources import Identity, StudySource
from pythia_quant.sweep.store import Store
from pythia_quant.sweep.study import load_study
from pythia_quant.sweep.table import TABLE, VOLATILE, read_table

HERE = Path(__file__).resolve().parent
JOBS, WORKERS, NODES, REAL_SECONDS, WARM = 10_000, 64, 4, 10.0, 1_000


@contextmanager
def cluster_of(nodes: int, cores: int = 1) -> Iterator[Cluster]:
    """Start a cluster: a head that does no jobs, and nodes."""
    size: dict[str, Any] = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **size})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=cores, **size)
        yield cluster
    finally:
        cluster.shutdown()


def command(study: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """Start a study as users do."""
    arguments = ["sweep", "run", str(study), "--out", str(out), *options]
    log = (out.parent / f"{out.name}.log").open("a")
    return subprocess.Popen([sys.executable, "-P", "-m", "pythia_quant", *arguments], stdout=log, stderr=log, text=True)


def on(cluster: Cluster) -> list[str]:
    """Return the options for a study on a cluster."""
    return ["--engine", "ray", "--address", cluster.address]


def finish(child: subprocess.Popen[str]) -> float:
    """Wait for a study to end well; return the seconds."""
    started = time.monotonic()
    if child.wait(600):
        raise SystemExit(f"a study ended with exit code {child.returncode}; see the logs in --work")
    return time.monotonic() - started


def wait_for(out: Path, count: int) -> dict[str, int]:
    """Wait until a study has so many results; return when each was written."""
    while len(done := stored(out)) < count:
        time.sleep(0.05)
    return done


def stored(out: Path) -> dict[str, int]:
    """Return when each result was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "store" / "results").glob("*.json")}


def content(out: Path) -> list[dict[str, Any]]:
    """Return what must be equal in the tables of a study."""
    return [{name: cell for name, cell in line.items() if name not in VOLATILE} for line in read_table(out / TABLE)]


def kept(before: dict[str, int], out: Path) -> str:
    """Say how many results were there before and have not been made again."""
    after = stored(out)
    return f"{sum(after[name] == written for name, written in before.items())} of {len(before)} kept"


def check_failures(study: Path, work: Path, say: Callable[[str, Path, str], None]) -> None:
    """Run the study on clusters that lose nodes, their driver, and their head."""
    with cluster_of(2) as cluster:
        out = work / "ray-2"
        say("Ray, 2 nodes", out, f"{finish(command(study, out, *on(cluster))):.0f} s")
        out = work / "node-killed"
        child = command(study, out, *on(cluster))
        before = wait_for(out, 2)
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        say("a node killed, another added", out, f"{finish(child):.0f} s after that; {kept(before, out)}")
        out = work / "driver-killed"
        child = command(study, out, *on(cluster))
        wait_for(out, 2)
        child.kill()
        child.wait()
        time.sleep(2)  # Ray ends the tasks of a driver that is gone
        before = stored(out)
        say(
            "driver killed, started again", out,
            f"{finish(command(study, out, *on(cluster))):.0f} s for the rest; {kept(before, out)}",
        )  # fmt: skip
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        out = work / "ray-4"
        say("Ray, 4 nodes", out, f"{finish(command(study, out, *on(cluster))):.0f} s")
    out = work / "head-killed"
    with cluster_of(2) as cluster:
        child = command(study, out, *on(cluster))
        wait_for(out, 2)
        head: Any = cluster.head_node
        head.kill_gcs_server()
        started = time.monotonic()
        code = child.wait(300)
        ended = f"driver ended after {time.monotonic() - started:.0f} s with {code}"
    before = stored(out)
    with cluster_of(2) as cluster:
        seconds = finish(command(study, out, *on(cluster)))
        say("head killed, started again", out, f"{ended}; {seconds:.0f} s for the rest; {kept(before, out)}")


def overhead(study: Path, out: Path, engine: Engine) -> float:
    """Return the seconds that a job takes in one warm process beyond what it reports, as the median of sources."""
    shutil.rmtree(out, ignore_errors=True)
    store = Store(str(out / "store"))
    out.mkdir(parents=True)
    store.check()
    planned = plan_study(load_study(study), store)
    needs = [one.memory for one in needs_of(planned.todo, {})]
    ended: list[tuple[float, float]] = []

    def tell(index: int, _: object) -> None:
        results = [store.read(job.key) for job in planned.todo[index].jobs]
        parts = [sum(result.seconds.values()) - result.seconds["reference"] for result in results]
        ended.append((time.monotonic(), sum(parts) + results[0].seconds["reference"]))

    run_study(planned, out, store, engine, needs, tell, shared=True)
    rows = len(planned.todo[0].jobs)
    return median((now - before - own) / rows for (before, _), (now, own) in pairwise(ended))


def simulate(study: Path, out: Path, address: str) -> dict[str, float]:
    """Run the simulated jobs as the driver of a cluster; return seconds, and the peak of this process in bytes."""
    loaded, recipe = load_study(study), load_study(study).recipe_of("demo")
    groups = []
    for number in range(JOBS):
        source = StudySource("builtin:demo", "main", "demo", f"step{number}", "demo", "", None, number, None, None)
        groups.append(Group(number, source, recipe, [Job(f"{number:032x}", FLOOR, None)]))
    store = Store(str(out / "store"))
    store.check()
    planned = PlannedStudy(loaded, groups, [Identity({"model": "0"})] * JOBS, {}, groups, frozenset(), frozenset())
    ended: list[float] = []
    before, started = peak_rss(), time.monotonic()
    engine = RayEngine(1, address, simulated_job.do)
    outcome = run_study(
        planned, out, store, engine, [10**8] * JOBS, lambda *_: ended.append(time.monotonic()), shared=False
    )
    assert outcome.done == JOBS, outcome
    return {
        "all": time.monotonic() - started, "jobs": ended[-1] - started, "warm": ended[-1] - ended[WARM - 1],
        "peak": peak_rss(), "before": before,
    }  # fmt: skip


def check_simulation(study: Path, work: Path) -> None:
    """Run the simulated jobs in a process of its own, and print what they took."""
    out = work / "simulated"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    name = next(iter(stored(work / "local"))).removesuffix(".json")
    result = json.loads((work / "local" / "store" / "results" / f"{name}.json").read_text())
    (out / simulated_job.TEMPLATE).write_text(json.dumps(result | {"key": simulated_job.KEY}))
    with cluster_of(NODES, WORKERS // NODES) as cluster:
        line = [sys.executable, __file__, "--work", str(work), "--driver", str(study), cluster.address]
        measured = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)
    ideal, real = JOBS * simulated_job.SECONDS / WORKERS, JOBS * REAL_SECONDS / WORKERS
    warm = (JOBS - WARM) * simulated_job.SECONDS / WORKERS
    print(f"{JOBS:,} simulated jobs, {WORKERS} workers: {real:.0f} s would be ideal, {ideal:.1f} s on the jobs' clock")
    print(f"  all jobs {measured['jobs']:.1f} s, and until the table is there {measured['all']:.1f} s:", end=" ")
    print(f"{measured['all'] - ideal:.1f} s more, {100 * (measured['all'] - ideal) / real:.1f} % of {real:.0f} s")
    print(f"  after the first {WARM:,} jobs: {measured['warm']:.1f} s, {warm:.1f} s would be ideal:", end=" ")
    more = measured["warm"] - warm
    print(f"{more:.1f} s more, {100 * more / (real * (1 - WARM / JOBS)):.1f} % with jobs of {REAL_SECONDS:.0f} s")
    print(f"  peak memory of the driver: {measured['peak'] / 1e6:.0f} MB, {measured['before'] / 1e6:.0f} at its start")


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("ray-work"), help="folder for checkpoints and results")
    parser.add_argument("--sources", type=int, default=6)
    parser.add_argument("--only", choices=("tables", "overhead", "simulation"))
    parser.add_argument("--driver", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    work = given.work.resolve()
    if given.driver:
        print(json.dumps(simulate(Path(given.driver[0]), work / "simulated", given.driver[1])))
        return
    os.environ["PYTHONPATH"] = str(HERE)  # workers import the simulated job
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the clusters, too
    work.mkdir(parents=True, exist_ok=True)
    study = write_study(work, write_checkpoints(given.sources, work), ["bnb-nf4", "onnx-int8"])
    print(f"{machine.cpu()}, {machine.cores()} cores; {given.sources} sources")
    if given.only in (None, "tables"):
        for name in ("local", "ray-2", "ray-4", "node-killed", "driver-killed", "head-killed"):
            shutil.rmtree(work / name, ignore_errors=True)
        print(f"local, 2 processes: {finish(command(study, work / 'local', '--workers', '2')):.0f} s", flush=True)
        expected = content(work / "local")
        assert {line["status"] for line in expected} == {"done"}

        def say(what: str, out: Path, measured: str) -> None:
            same = "the same table" if content(out) == expected else "ANOTHER TABLE"
            print(f"{what}: {same}, {measured}", flush=True)

        check_failures(study, work, say)
    if given.only in (None, "overhead"):
        print(f"beyond what a job reports, local: {overhead(study, work / 'overhead', LocalEngine(1, 1)):.2f} s a job")
        with cluster_of(1) as cluster:
            seconds = overhead(study, work / "overhead", RayEngine(1, cluster.address))
        print(f"beyond what a job reports, Ray: {seconds:.2f} s a job", flush=True)
    if given.only in (None, "simulation"):
        check_simulation(study, work)


if __name__ == "__main__":
    _main()
