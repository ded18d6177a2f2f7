"""Measure what our quantization and the peers' cost, on a trained checkpoint and the same windows of a text.

``python benchmarks/onnx_peers/quality.py --source MODEL --text FILE --work DIR --out quality.json``

Every driver writes the logits of one window into a file. They are compared with the fp32 reference, and the next window
overwrites the file: the logits of all windows would take gigabytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # peers/ is shared with other benchmarks

import numpy as np
import subjects
import torch
from peers import watch
from peers.reference import fp32_reference
from peers.store import Store
from rich.console import Console
from rich.table import Table
from subjects import Subject
from torch import Tensor

from pythia_quant.bench.quality import compare_logits
from pythia_quant.bench.statistics import Estimate, differences, mean_of_windows
from pythia_quant.core import machine
from pythia_quant.model.source import open_source
from pythia_quant.records.results import Drift
from pythia_quant.texts.load import read_text
from pythia_quant.texts.windows import encode, spread_windows


@contextmanager
def driver_logits(
    subject: Subject, python: Path, folder: Path, ids: Tensor, threads: int, log: Path
) -> Iterator[Callable[[int], Tensor]]:
    """Start a subject's driver and give a function that returns the logits of a window, valid until its next call.

    Args:
        subject: whose model it is.
        python: its interpreter.
        folder: its model.
        ids: int64 [windows, context].
        threads: for the driver.
        log: file for what it says.

    Raises:
        FailedError: the driver ended early.
    """
    with tempfile.TemporaryDirectory(prefix="onnx-peers-") as name, log.open("ab") as messages:
        scratch, listed = Path(name) / "logits", Path(name) / "ids.json"
        listed.write_text(json.dumps(ids.tolist()))
        command = subject.command(python, "logits", folder, "--threads", str(threads), listed, scratch)
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)},
        )
        assert child.stdin is not None
        assert child.stdout is not None
        questions, answers = child.stdin, child.stdout

        def answer() -> str:
            line = answers.readline()
            if not line:
                raise watch.FailedError(f"ended with {child.wait()} (see {log})")
            return line.strip()

        def logits(window: int) -> Tensor:
            print(window, file=questions, flush=True)
            answer()
            values = torch.from_numpy(np.fromfile(scratch, dtype=np.float32))
            return values.reshape(ids.shape[1], -1)

        try:
            answer()  # what computes it
            yield logits
        finally:
            questions.close()
            child.wait()


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of a trained checkpoint")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text, unknown to the checkpoint")
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--work", type=Path, required=True, help="folder for environments and models")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="result file, JSON")
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="our variants; default: onnx-int8 and onnx-fp32")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these variants and peers")
    given = parser.parse_args()
    console = Console(width=max(120, Console().width))
    work: Path = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    log = work / "log.txt"
    chosen = [each for each in subjects.choose(given.recipe, given.only, work) if each.threads is None]
    pythons, failed = subjects.interpreters(chosen, work, console.print)

    source = open_source(str(given.source))
    tokens = encode(source.tokenizer, read_text(given.text))
    ids = torch.from_numpy(spread_windows(tokens, given.context, given.windows))
    reference = fp32_reference(source, ids, work)
    conditions = {
        "cpu": machine.cpu(),
        "source": source.sha256,
        "text": given.text.name,
        "windows": list(ids.shape),
    }
    store = Store(given.out, conditions)
    store.data["reference_nll"] = reference.nll
    drifts = store.data.setdefault("drifts", {})
    place = work / "models" / "quality" / hashlib.sha256(str(source.folder).encode()).hexdigest()[:8]
    place.mkdir(parents=True, exist_ok=True)
    link = subjects.source_folder(place)
    if not link.exists():
        link.symlink_to(source.folder)
    for subject in chosen:
        if subject.name in drifts or subject.name in failed:
            continue
        try:
            python, folder = pythons[subject.name], subject.folder(place)
            if subject.model and (subject.recipe or not folder.exists()):
                subjects.convert(subject, python, link, place, log)
            with driver_logits(subject, python, folder, ids, given.threads, log) as logits:
                compared = {subject.name: lambda window, logits=logits: logits(window).__getitem__}
                drifts[subject.name] = compare_logits(reference, compared)[subject.name].model_dump()
            store.save()
        except watch.FailedError as error:
            failed[subject.name] = str(error)
    mine = [each.name for each in chosen if each.recipe and each.name in drifts]
    found = {each.name: Drift.model_validate(drifts[each.name]) for each in chosen if each.name in drifts}
    _print(found, store.data["reference_nll"], mine, console)
    for name, reason in failed.items():
        console.print(f"{name}: {reason}", markup=False)
    return 0


def _print(drifts: dict[str, Drift], reference: list[float], mine: list[str], console: Console) -> None:
    """Print the drift of every row, and the paired differences between our rows and each of the others."""
    table = Table(title="Drift from fp32, ± 95 % interval", title_justify="left", box=None, padding=(0, 1))
    table.add_column("")
    for heading in ("ln ppl\n1e-3", "KL\nmnat", "top-1\n%", *(f"KL less that\nof {name}" for name in mine)):
        table.add_column(heading, justify="right")
    for name, drift in drifts.items():
        if drift.non_finite:
            table.add_row(name, f"{drift.non_finite:,} logits are not finite")
            continue
        against = [
            _thousandths(mean_of_windows(differences(drift.kl, drifts[each].kl))) if each != name else ""
            for each in mine
        ]
        top1 = mean_of_windows([100 * share for share in drift.top1])
        perplexity = _thousandths(mean_of_windows(differences(drift.nll, reference)))
        kl = _thousandths(mean_of_windows(drift.kl))
        table.add_row(name, perplexity, kl, f"{top1.value:.2f} ± {top1.margin:.2f}", *against)
    console.print(table)
    count = len(reference)
    console.print(f"{count} windows of one text; intervals from window means, of differences of KL from paired ones.")


def _thousandths(value: Estimate) -> str:
    return f"{1e3 * value.value:+.3f} ± {1e3 * value.margin:.3f}"


if __name__ == "__main__":
    sys.exit(_main())
