"""Bring about faults for some minutes, print how many were survived, and fail if one was not: ``make faults``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from faults import corruption, disk, kill
from faults.scenes import Stage
from faults.tally import Tally, Trial, write_table

KINDS: dict[str, tuple[Callable[[Stage, Random], Iterator[Trial]], float]] = {
    "kill": (kill.trials, 6.0),
    "corruption": (corruption.trials, 2.0),
    "disk": (disk.trials, 2.0),
}
"""The kinds of faults, and the share of the time that each gets."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--seed", type=int, default=0, help="decides the moments, the damages and their order")
    parser.add_argument("--only", choices=KINDS, action="append", help="only this kind; may be repeated")
    parser.add_argument("--page", type=Path, help="write the table into this page, between its marks")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    tally, stage = Tally(), Stage(folder)
    began = time.monotonic()
    try:
        bring_about(tally, stage, given.only or list(KINDS), given.seed, began + 60 * given.minutes)
    finally:
        stage.close()
        shutil.rmtree(folder, ignore_errors=True)
    minutes = (time.monotonic() - began) / 60
    conditions = f"Seed {given.seed}, {minutes:.0f} minutes on {os.cpu_count()} processors.\n"
    print(f"\n{tally.table()}\n{conditions}")
    for loss in tally.losses:
        print(f"not survived: {loss}")
    if given.page:
        write_table(given.page, f"{tally.table()}\n{conditions}")
    sys.exit(bool(tally.losses))


def bring_about(tally: Tally, stage: Stage, kinds: list[str], seed: int, deadline: float) -> None:
    """Give each kind its share of the time, until the time is over or nothing is left to try."""
    running = {kind: KINDS[kind][0](stage, Random(f"{seed}/{kind}")) for kind in kinds}
    spent = dict.fromkeys(kinds, 0.0)
    while running and time.monotonic() < deadline:
        kind = min(running, key=lambda one: spent[one] / KINDS[one][1])
        started = time.monotonic()
        trial = next(running[kind], None)
        if trial is None:
            del running[kind]
        elif not tally.attempt(trial):
            print(f"not survived: {tally.losses[-1]}", flush=True)
        spent[kind] += time.monotonic() - started


if __name__ == "__main__":
    main()
