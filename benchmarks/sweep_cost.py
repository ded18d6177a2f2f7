"""What a study costs beside its jobs: ``python benchmarks/sweep_cost.py --work /tmp/cost --revisions 154``.

A study of perturbed copies of the demo model, four variants and the fp16 floor, runs with the local engine. Its time is
compared with the sum of its jobs' own times divided by the processes, and its driver's memory with what it had before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from perturbed import write_checkpoints, write_study

from pythia_quant.core.machine import cores
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
    memory: list[tuple[float, int]] = []
    threading.Thread(target=_watch, args=(psutil.Process(child.pid), memory), daemon=True).start()
    child.wait()
    took = time.monotonic() - started
    lines = read_table(work / "out" / TABLE)
    references = {(line["model"], line["revision"]): line["reference_seconds"] for line in lines}
    own = sum(references.values()) + sum((line["convert_seconds"] or 0) + line["measure_seconds"] for line in lines)
    ideal = own / cores()
    middle = memory[len(memory) // 4][1], memory[3 * len(memory) // 4][1]
    print(f"{len(lines)} jobs on {cores()} cores: {took:.0f} s; their own times by cores {ideal:.0f} s")
    print(
        f"ratio {took / ideal:.3f}; the driver had {middle[0] / 1e6:.0f} MB after a quarter, "
        f"{middle[1] / 1e6:.0f} MB after three"
    )


def _watch(driver: psutil.Process, memory: list[tuple[float, int]]) -> None:
    while True:
        try:
            memory.append((time.monotonic(), driver.memory_info().rss))
        except psutil.Error:
            return
        time.sleep(1)


if __name__ == "__main__":
    main()
