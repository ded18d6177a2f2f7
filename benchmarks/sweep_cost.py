"""What a study costs beside its jobs: ``python benchmarks/sweep_cost.py --work /tmp/cost --revisions 154``.

A study of perturbed copies of the demo model, four variants and the fp16 floor, runs with the local engine. Its time is
compared with the sum of its jobs' own times divided by the processes. Once a second, the memory of the driver and of
all its processes is taken down, and the disk that unfinished work takes; neither may grow with the number of jobs. The
copies themselves take 5 MB each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from perturbed import write_checkpoints, write_study

from pythia_quant.core.machine import cores
from pythia_quant.sweep.run import WORK
from pythia_quant.sweep.table import TABLE, read_table

VARIANTS = ["bnb-nf4", "gptq-int4", "onnx-int8", "onnx-fp32"]


def main() -> None:
    """Run the study and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--revisions", type=int, default=154)
    options = parser.parse_args()
    work: Path = options.work
    study = write_study(work, write_checkpoints(options.revisions, work), VARIANTS)
    command = [sys.executable, "-P", "-m", "pythia_quant", "sweep", "run", str(study), "--out", str(work / "out")]
    started = time.monotonic()
    child = subprocess.Popen([*command, "--quiet"])
    seen: list[Seen] = []
    threading.Thread(target=_watch, args=(psutil.Process(child.pid), work / "out" / WORK, seen), daemon=True).start()
    if child.wait():
        raise SystemExit("the study failed")
    took = time.monotonic() - started
    lines = read_table(work / "out" / TABLE)
    references = {(line["model"], line["revision"]): line["reference_seconds"] for line in lines}
    own = sum(references.values()) + sum((line["convert_seconds"] or 0) + line["measure_seconds"] for line in lines)
    ideal = own / cores()
    halves = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    print(f"{len(lines)} jobs on {cores()} cores: {took:.0f} s; their own times by cores {ideal:.0f} s")
    print(
        f"ratio {took / ideal:.3f}; the driver had {seen[len(seen) // 4].driver / 1e6:.0f} MB after a quarter, "
        f"{seen[3 * len(seen) // 4].driver / 1e6:.0f} MB after three"
    )
    for name, half in zip(("first", "second"), halves, strict=True):
        memory, disk = max(one.processes for one in half), max(one.disk for one in half)
        print(f"most in the {name} half: {memory / 1e6:.0f} MB of memory in all processes, {disk / 1e6:.0f} MB of disk")


class Seen(NamedTuple):
    """Bytes at one moment: memory of the driver and of all processes, disk of unfinished work."""

    driver: int
    processes: int
    disk: int


def _watch(driver: psutil.Process, unfinished: Path, seen: list[Seen]) -> None:
    while driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
        with suppress(psutil.Error, OSError):  # processes and files may go meanwhile
            own = driver.memory_info().rss
            others = sum(child.memory_info().rss for child in driver.children(recursive=True))
            disk = sum(path.stat().st_size for path in unfinished.rglob("*") if path.is_file())
            seen.append(Seen(own, own + others, disk))
        time.sleep(1)


if __name__ == "__main__":
    main()
