"""A study that is killed again and again: ``python benchmarks/sweep_kills.py --work /tmp/kills --kills 10``.

A study of perturbed copies of the demo model runs undisturbed, then with its program killed by SIGKILL at random
moments and started again. Both tables must be equal but for times, nothing finished may be computed again, and nothing
may be left beside the results.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from perturbed import write_checkpoints, write_study

from pythia_quant.sweep.table import TABLE, VOLATILE, read_table


def main() -> None:
    """Kill, go on, compare, and print how often it held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work, moments = options.work, random.Random(options.seed)
    study = write_study(work, write_checkpoints(8, work), ["gptq-int4", "onnx-int8"])
    started = time.monotonic()
    _start(study, work / "undisturbed").wait()
    whole = time.monotonic() - started
    out, made_again = work / "killed", 0
    for number in range(options.kills):
        before = _results(out)
        child = _start(study, out)
        time.sleep(moments.uniform(0.05, 0.5) * whole)
        child.send_signal(signal.SIGKILL)
        child.wait()
        after = _results(out)
        made_again += sum(after[name] != changed for name, changed in before.items())
        print(f"kill {number + 1}: {len(after)} results, {len(after) - len(before)} of them new")
    _start(study, out).wait()
    same = _stable(out) == _stable(work / "undisturbed")
    left = sorted(path.name for path in out.iterdir())
    print(f"same table: {same}; results made again: {made_again}; in the folder: {', '.join(left)}")
    if not same or made_again:
        raise SystemExit(1)


def _start(study: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "pythia_quant", "sweep", "run", str(study), "--out", str(out), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _results(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "store" / "results").glob("*.json")}


def _stable(out: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key not in VOLATILE} for line in read_table(out / TABLE)]


if __name__ == "__main__":
    main()
