"""Measure our ONNX artifacts beside their peers: ``python benchmarks/onnx_peers --help``.

Makes random checkpoints in the shape of Pythia sizes, converts them for every peer, and measures all of them in rounds.
Each measurement is a fresh process, and each round begins with another row. What is in the result file already is not
measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # peers/ is shared with other benchmarks

import environments
import subjects
from peers import watch
from peers.environments import versions
from peers.store import Record
from rich.console import Console
from sizes import SizeStore
from subjects import HERE, Subject
from tables import decode, print_conditions, print_ratios, print_size

from pythia_quant.bench.conditions import ALLOWED_SHARE, OtherPrograms, read_speeds, wait_until_quiet
from pythia_quant.core import machine, process
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.model.config import read_config
from pythia_quant.model.suite import SIZES

TRIES = 3
"""How often a measurement is made at most, while something else disturbs it."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/onnx_peers", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["70m", "160m"], metavar="SIZE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--work", type=Path, required=True, help="folder for environments, checkpoints and models")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="result file, JSON")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="a Pythia's tokenizer.json")
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="our variants; default: onnx-int8 and onnx-fp32")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these variants and peers")
    parser.add_argument("--patience", type=float, default=60, metavar="S", help="seconds to wait for a quiet machine")
    parser.add_argument("--retry-disturbed", action="store_true", help="measure again what something else disturbed")
    parser.add_argument("--fresh", nargs="+", default=[], metavar="NAME", help="convert and measure these again")
    return parser.parse_args()


@dataclass(frozen=True)
class Run:
    """What all steps of a run share."""

    store: SizeStore
    models: Path
    threads: int
    patience: float
    retry_disturbed: bool
    pythons: dict[str, Path]
    log: Path
    console: Console

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.console.print(text, markup=False, highlight=False)

    def convert(self, size: str, subject: Subject, again: bool) -> None:
        """Convert a subject, unless its model exists; rows that share a model share the record."""
        if subject.model is None:
            return
        place = self.models / size
        conversions = self.store.conversions(size)
        kept = place / f"{subject.name if subject.recipe else subject.model}.conversion.json"
        # A model that this result file does not know may be by an earlier version of ours; peers are pinned.
        stale = subject.name not in conversions and (again or subject.recipe is not None)
        if stale or not subject.folder(place).exists() or not kept.exists():
            self.say(f"{size}: converting for {subject.name}")
            wait_until_quiet(self.patience)
            others = OtherPrograms()
            try:
                source = subjects.source_folder(place)
                record = subjects.convert(subject, self.pythons[subject.name], source, place, self.log)
            except watch.FailedError as error:
                conversions[subject.name] = {"failed": f"conversion {error}"}
                self.store.save()
                return
            kept.write_text(json.dumps(record | {"others": others.share()}))
        conversions[subject.name] = json.loads(kept.read_text())
        self.store.save()

    def measure(self, size: str, number: int, subject: Subject) -> None:
        """Measure a subject in one round, unless that was done; if others disturb it, measure again, at most twice."""
        rounds = self.store.rounds(size, subject.name)
        before = rounds.get(str(number), {})
        done = "decode_seconds" in before and not (self.retry_disturbed and before["others"] > ALLOWED_SHARE)
        if done or "failed" in self.store.conversions(size).get(subject.name, {}):
            return
        best: Record = before if "others" in before else {}
        for _ in range(TRIES):
            wait_until_quiet(self.patience)
            try:
                record = self._sample(subject, self.models / size)
            except (watch.FailedError, BenchmarkError) as error:
                best = best or {"failed": f"measurement {error}"}
                break
            best = min(best or record, record, key=lambda each: each["others"])
            if best["others"] <= ALLOWED_SHARE:
                break
        if "failed" in best:
            self.say(f"{size}, round {number}, {subject.name}: {best['failed']}")
        else:
            disturbed = f", others took {best['others']:.0%}" if best["others"] > ALLOWED_SHARE else ""
            self.say(f"{size}, round {number}, {subject.name}: {1e3 * decode(best):.2f} ms a token{disturbed}")
        rounds[str(number)] = best
        self.store.save()

    def _sample(self, subject: Subject, place: Path) -> Record:
        threads = subject.threads or self.threads
        needed = subject.bytes_per_token(read_config(subjects.source_folder(place) / "config.json"))
        reading = {"size": needed, "threads": threads}
        bandwidth: Record = process.call(read_speeds, reading, threads)
        record = subjects.measure(subject, self.pythons[subject.name], place, threads, self.log)
        return record | {
            "bandwidth": bandwidth,
            "bytes_per_token": needed,
            "model_bytes": subjects.model_bytes(subject.folder(place)),
        }

    def checkpoint(self, size: str, tokenizer: Path) -> bool:
        """Make the checkpoint of a size, unless it exists; return False if there is no room for it."""
        folder = subjects.source_folder(self.models / size)
        command = [sys.executable, str(HERE.parent / "random_checkpoint.py"), size, str(folder)]
        return folder.exists() or not subprocess.run([*command, "--tokenizer", str(tokenizer)], check=False).returncode


def _main() -> int:
    given = _arguments()
    console = Console(width=max(150, Console().width))
    work: Path = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    chosen = subjects.choose(given.recipe, given.only, work)
    store = SizeStore(given.out, {"cpu": machine.cpu(), "cores": machine.cores(), "threads": given.threads})
    for name in given.fresh:
        store.forget(name)
    pythons, failed = subjects.interpreters(chosen, work, console.print)
    run = Run(
        store, work / "models", given.threads, given.patience, given.retry_disturbed, pythons, work / "log.txt", console
    )
    for name, reason in failed.items():
        run.say(f"{name}: left out; {reason}")
    chosen = [subject for subject in chosen if subject.name in pythons]
    store.data["llama.cpp build"] = environments.llama_cpp_options()
    store.data["versions"] = store.data.get("versions", {}) | {
        subject.environment or "ours": versions(pythons[subject.name]) for subject in chosen
    }
    for size in given.sizes:
        if not run.checkpoint(size, given.tokenizer):
            return 2
        for subject in chosen:
            run.convert(size, subject, subject.name in given.fresh)
        for number in range(given.rounds):
            turn = number % len(chosen)
            for subject in chosen[turn:] + chosen[:turn]:
                run.measure(size, number, subject)
    names = [subject.name for subject in chosen]
    mine = [subject.name for subject in chosen if subject.recipe]
    for size in given.sizes:
        print_size(store, size, names, console)
    print_ratios(store, given.sizes, mine, [name for name in names if name not in mine], console)
    print_conditions(store, console)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
