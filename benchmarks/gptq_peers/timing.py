"""How long a quantization takes, and how much memory, in fresh processes: a round runs each row once."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peers import watch
from peers.store import Record, Store

from gptq_peers import peer
from gptq_peers.methods import Method
from pythia_quant.bench.conditions import OtherPrograms, wait_until_quiet
from pythia_quant.recipe.recipe import Recipe

OURS = Path(__file__).parents[1] / "peers" / "convert_ours.py"


def with_windows(recipe: Recipe, windows: int, folder: Path) -> Path:
    """Write a recipe with another number of calibration windows, for processes to load, and return its path."""
    content = recipe.canonical()
    content["calibration"]["windows"] = windows
    path = folder / "timing.yaml"
    path.write_text(json.dumps(content))  # which is YAML too
    return path


@dataclass(frozen=True)
class Timing:
    """What all rounds share.

    Attributes:
        recipe: of our variants, with the source and the texts to use.
        source: the checkpoint's folder.
        windows: calibration windows.
        store: the result file.
        work: folder for logs.
        python: gptqmodel's interpreter, or why there is none.
        threads: for each process.
        patience: seconds to wait for a quiet machine.
        say: called with a line for every measurement.
    """

    recipe: Path
    source: Path
    windows: list[list[int]]
    store: Store
    work: Path
    python: Path | str
    threads: int
    patience: float
    say: Callable[[str], object]

    def run(self, rows: list[Method | str], rounds: int) -> None:
        """Measure rows one after the other, round by round, except what the result file has already."""
        for number in range(rounds):
            for row in rows:
                name = row if isinstance(row, str) else row.name
                found = self.store.data.setdefault("timings", {}).setdefault(name, {})
                if "seconds" in found.get(str(number), {}):
                    continue
                wait_until_quiet(self.patience)
                others = OtherPrograms()
                try:
                    record = self._ours(row) if isinstance(row, str) else self._theirs(row)
                    record["others"] = others.share()
                    self.say(f"round {number}, {name}: {record['seconds']:.1f} s, others {record['others']:.0%}")
                except watch.FailedError as error:
                    record = {"failed": str(error)}
                    self.say(f"round {number}, {name}: {error}")
                found[str(number)] = record | {"ours": isinstance(row, str)}
                self.store.save()

    def _ours(self, variant: str) -> Record:
        limits = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        command: list[str | Path] = [sys.executable, OURS, self.recipe, variant]
        watched = watch.run(command, self.work / "ours.log", limits, look=False)
        told = json.loads(watched.output)
        phases = {phase: told.pop(phase) for phase in ("open", "write", "check")}
        return {**told, "phases": phases, "seconds": watched.seconds}

    def _theirs(self, method: Method) -> Record:
        if isinstance(self.python, str):
            raise watch.FailedError(self.python)
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            told, _ = peer.run(method, self.python, self.source, self.windows, Path(folder), self.threads)
        return told
