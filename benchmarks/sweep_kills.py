"""A study that is killed again and again: ``python benchmarks/sweep_kills.py --work /tmp/kills --kills 10``.

Perturbed copies of the demo model stand for eight steps of three seeds. Half of the steps are folders, half are on a
hub on loopback, that of the tests. Two have the same weights, one in a folder and one on the hub; of each kind one is
corrupt; one revision is missing. The study runs undisturbed, then with its program killed by SIGKILL at random moments
and started again, each time with caches of its own. Both tables must be equal but for times, no result may be made
twice, and nothing may be left: no file beside the results, no weights in the hub's cache, no temporary file, no
process.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from perturbed import write_checkpoint

from pythia_quant.sweep.table import TABLE, VOLATILE, read_table

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from loopback import Hub, client_environment, loopback_hub

SEEDS, STEPS, HERE = (1, 2, 3), (1, 2, 4, 8, 16, 32, 64, 128), 4
"""The first :data:`HERE` of the steps are folders."""
SAME = ("seed2", "step8", "step16")
CORRUPT_HERE, CORRUPT_THERE, MISSING = "seed3/step2", "seed1/step32", "step256"
OF_LIBRARIES = {"torchinductor_root"}
"""What torch leaves in the temporary folder, which is an empty folder."""
_ENDING = 10.0
"""Seconds within which the processes of a killed program must have ended."""


def main() -> None:
    """Kill, go on, compare, and print how often it held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    given = parser.parse_args()
    work: Path = given.work
    if work.exists():
        raise SystemExit(f"{work} exists: name a new folder")
    with loopback_hub() as hub:
        study = _write(work, hub)
        began = time.monotonic()
        _start(study, work, "undisturbed", hub).wait()
        whole = time.monotonic() - began
        print(f"undisturbed: {whole:.0f} s; {_said(work / 'undisturbed')}", flush=True)
        with _watched(work / "killed") as versions:
            _kill(study, work, hub, random.Random(given.seed), given.kills, whole)
            _start(study, work, "killed", hub).wait()
    same = _stable(work / "killed") == _stable(work / "undisturbed")
    again = len(versions) - len({name for name, _ in versions})
    left = {name: _left(work, name) for name in ("undisturbed", "killed")}
    print(f"killed {given.kills} times: {_said(work / 'killed')}")
    print(f"same table: {same}; results made twice: {again}; left behind: {left['killed'] or 'nothing'}")
    if not same or again or any(left.values()):
        raise SystemExit(1)


def _write(work: Path, hub: Hub) -> Path:
    """Write all checkpoints, put half of them on the hub, and write the study; return its path."""
    sources = []
    for seed in SEEDS:
        name, folder = f"seed{seed}", work / f"seed{seed}"
        for index, step in enumerate(STEPS):
            write_checkpoint(folder / f"step{step}", 100 * seed + index)
        there = [f"step{step}" for step in STEPS[HERE:]]
        if name == SAME[0]:
            shutil.copy(folder / SAME[1] / "model.safetensors", folder / SAME[2])
        hub.add(f"someone/{name}", {"main": folder / there[-1]} | {branch: folder / branch for branch in there})
        for branch in there:
            shutil.rmtree(folder / branch)
        revisions = ",".join([*there, MISSING] if seed == SEEDS[0] else there)
        facts = f"seed: {seed}, size: demo, tokens_per_step: 4096"
        sources += [f'{{model: "./{name}/{{revision}}", {facts}, revisions: all}}']
        sources += [f'{{model: someone/{name}, {facts}, revisions: "{revisions}"}}']
    corrupt = work / CORRUPT_HERE / "model.safetensors"
    corrupt.write_bytes(corrupt.read_bytes()[:1_000_000])
    _damage(hub, *CORRUPT_THERE.split("/"))
    path = work / "study.yaml"
    path.write_text(
        "schema: 1\nrecipe: demo\nvariants: [gptq-int4, onnx-int8]\n"
        "settings:\n  evaluation.windows: 8\n  evaluation.context: 128\n"
        "  calibration.windows: 16\n  calibration.context: 128\n"
        "sources:\n" + "".join(f"  - {source}\n" for source in sources)
    )
    return path


def _damage(hub: Hub, name: str, branch: str) -> None:
    """Replace weights on the hub by others that are no safetensors; their hash is right."""
    content = hub.files(f"someone/{name}", branch)["model.safetensors"]
    hub.put(f"someone/{name}", branch, {"model.safetensors": content[:1_000_000]})


def _start(study: Path, work: Path, name: str, hub: Hub) -> subprocess.Popen[bytes]:
    """Start the program; its caches, temporary files and messages are beside its folder."""
    home, temporary = work / f"{name}.home", work / f"{name}.tmp"
    temporary.mkdir(exist_ok=True)
    own = {"PYTHIA_QUANT_CACHE": str(home / "own"), "TMPDIR": str(temporary)}
    command = [sys.executable, "-P", "-m", "pythia_quant", "sweep", "run", str(study), "--out", str(work / name)]
    with (work / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=client_environment(hub, home, **own)
        )


def _kill(study: Path, work: Path, hub: Hub, moments: random.Random, kills: int, whole: float) -> None:
    """Start the program and kill it, again and again, so that work is left for the last kill, too."""
    for number in range(1, kills + 1):
        before, wait = len(_results(work / "killed")), moments.uniform(0.0, 2.2 * whole / (kills + 1))
        child = _start(study, work, "killed", hub)
        time.sleep(wait)
        others = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGKILL)
        child.wait()
        _, alive = psutil.wait_procs(others, _ENDING)
        after = len(_results(work / "killed"))
        print(f"kill {number} after {wait:.1f} s: {after - before} new results, {after} in all", flush=True)
        if alive:
            raise SystemExit(f"processes outlive the program: {alive}")


def _results(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "store" / "results").glob("*.json")}


@contextmanager
def _watched(out: Path) -> Iterator[set[tuple[str, int]]]:
    """Give every result with every time at which it was written, as seen ten times a second."""
    versions: set[tuple[str, int]] = set()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            versions.update(_results(out).items())

    watcher = threading.Thread(target=look)
    watcher.start()
    yield versions
    done.set()
    watcher.join()
    versions.update(_results(out).items())


def _stable(out: Path) -> list[dict[str, object]]:
    """Return the lines of a table without times; as text, in which no digit of a number is lost and NaN equals NaN.

    A problem may name a file in the hub's cache, which each study has in a place of its own.
    """
    return [
        {key: repr(value).replace(str(out), "") for key, value in line.items() if key not in VOLATILE}
        for line in read_table(out / TABLE)
    ]


def _said(out: Path) -> str:
    lines = read_table(out / TABLE)
    counts = Counter(line["status"] for line in lines)
    repeated = sum(line["duplicate_of"] is not None for line in lines)
    return (
        f"{len(lines)} jobs, {', '.join(f'{n} {word}' for word, n in counts.items())}, {repeated} of them repetitions"
    )


def _left(work: Path, name: str) -> list[str]:
    """Return what a study has left beside what it should leave."""
    beside = {path.name for path in (work / name).iterdir()} - {"store", "report", "table.csv", TABLE}
    beside |= {path.name for path in (work / name / "store").rglob("*") if path.is_file() and path.suffix != ".json"}
    beside |= {path.name for path in (work / f"{name}.tmp").iterdir()} - OF_LIBRARIES
    cached = (work / f"{name}.home" / "hub").rglob("*")
    large = [path for path in cached if path.is_file() and path.stat().st_size > 1_000_000]
    processes = [one for one in psutil.process_iter() if str(work / name) in _command(one) and one.pid != os.getpid()]
    return sorted(beside) + [str(path) for path in large] + [str(one) for one in processes]


def _command(one: psutil.Process) -> str:
    try:
        return " ".join(one.cmdline())
    except psutil.Error:
        return ""


if __name__ == "__main__":
    main()
