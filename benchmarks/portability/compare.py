"""Run our kinds of integer products on many kinds of CPU: ``python benchmarks/portability/compare.py --work DIR``.

First it compares single kernels, with the inputs that saturate most, with exact integers; then whole artifacts of the
demo model with the fp32 reference. Both run as they are, and with the session option that makes products of channels
exact. CPUs that this machine cannot provide are left out, with the reason. To provide all, it needs the environment of
`make demo`, a CPU with AVX-512 VNNI and AVX-VNNI, Debian's packages qemu-user and gcc, and the network for the ARM
packages. It takes a quarter of an hour on one core, most of it for AVX2 in qemu.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cpus import CPUS, Cpu, run
from kernels import ROWS, Kernel, kernels
from rich.console import Console
from rich.table import Table

from pythia_quant import convert, load_inputs, load_recipe
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench.quality import compare_logits
from pythia_quant.bench.reference import Reference, open_reference
from pythia_quant.core import machine
from pythia_quant.core.progress import SILENT
from pythia_quant.formats.onnx.data_file import find_model

HERE = Path(__file__).parent
AS_IT_IS: dict[str, str] = {}
EXACT = {"session.x64quantprecision": "1"}


@dataclass(frozen=True)
class Artifact:
    """A variant's model and its inputs, for the table."""

    name: str
    model: Path


def _artifacts(inputs: Inputs, work: Path) -> list[Artifact]:
    variants = inputs.recipe.settings.variants
    return [Artifact(name, find_model(convert(inputs, name, work / "artifacts").folder)) for name in variants]


def _write_feeds(inputs: Inputs, path: Path) -> None:
    """Save the evaluation windows as the graph's inputs: a run for each window, with an empty past."""
    ids, shape = inputs.evaluation, inputs.source.architecture
    feeds: dict[str, npt.NDArray[Any]] = {"input_ids": ids[:, None], "attention_mask": np.ones_like(ids)[:, None]}
    nothing = np.zeros((len(ids), 1, shape.heads, 0, shape.head_size), np.float32)
    for layer in range(shape.layers):
        feeds |= {f"past_key_values.{layer}.{part}": nothing for part in ("key", "value")}
    np.savez(path, **feeds)  # type: ignore[arg-type]  # numpy's stub takes any keyword for allow_pickle


def _reference(inputs: Inputs, folder: Path) -> Reference:
    folder.mkdir(exist_ok=True)
    return open_reference(
        inputs.source.weights, inputs.source.sha256, torch.from_numpy(inputs.evaluation), SILENT, folder
    )


class Comparison:
    """Runs everything on one CPU after the other, and collects the rows of both tables."""

    def __init__(self, inputs: Inputs, work: Path) -> None:
        self._work, self._console = work, Console(width=max(140, Console().width))
        self._kernels = list(kernels())
        for kernel in self._kernels:
            kernel.write(work)
        self._artifacts = _artifacts(inputs, work)
        _write_feeds(inputs, work / "feeds.npz")
        self._reference = _reference(inputs, work / "reference")
        self._kinds = list(dict.fromkeys(kernel.kind for kernel in self._kernels))
        self._exactness = _table(f"Bare kernels, {_listed(ROWS)} tokens: wrong sums, largest error", self._kinds)
        names = [artifact.name for artifact in self._artifacts]
        windows, tokens = inputs.evaluation.shape
        title = f"The demo model, {windows} windows of {tokens} tokens: KL, mnat / top-1, %, against the fp32 reference"
        self._drifts = _table(title, names)

    def add(self, cpu: Cpu) -> None:
        """Run all kinds as they are, and those with channels also with the session option."""
        self._console.print(f"running: {cpu.name}", style="dim")
        for entries, name in ((AS_IT_IS, cpu.name), (EXACT, f"  {next(iter(EXACT))}")):
            chosen = [kernel for kernel in self._kernels if not entries or "channel" in kernel.kind]
            artifacts = [artifact for artifact in self._artifacts if not entries or "channel" in artifact.name]
            jobs = [
                _job(
                    self._work / f"{kernel.name}.onnx", self._work / f"{kernel.name}.npz", self._result(kernel), entries
                )
                for kernel in chosen
            ]
            jobs += [
                _job(artifact.model, self._work / "feeds.npz", self._result(artifact), entries)
                for artifact in artifacts
            ]
            listed = self._work / "jobs.json"
            listed.write_text(json.dumps(jobs))
            run(cpu, HERE / "runner.py", listed, self._work)
            cells = [
                _exactness(self._errors(kernel) for kernel in chosen if kernel.kind == kind) for kind in self._kinds
            ]
            self._exactness.add_row(name, *cells)
            drifts = {artifact.name: self._drift(artifact) for artifact in artifacts}
            self._drifts.add_row(name, *(drifts.get(artifact.name, "") for artifact in self._artifacts))

    def print(self) -> None:
        """Print both tables."""
        for table in (self._exactness, self._drifts):
            self._console.print()
            self._console.print(table)
        self._console.print("Largest error: as a share of the largest sum. One of 0.004 is rounding, not overflow.")

    def _result(self, of: Kernel | Artifact) -> Path:
        return self._work / f"{of.name}.npy"

    def _errors(self, kernel: Kernel) -> npt.NDArray[Any]:
        """Return the errors of all sums, as shares of the largest sum."""
        computed = np.load(self._result(kernel))
        return np.asarray(np.abs(computed - kernel.exact) / np.abs(kernel.exact).max())

    def _drift(self, artifact: Artifact) -> str:
        logits = torch.from_numpy(np.load(self._result(artifact)))[:, 0]
        drift = compare_logits(self._reference, {"": lambda window: lambda rows: logits[window, rows]})[""]
        if drift.non_finite:
            return "not finite"
        return f"{1e3 * fmean(drift.kl):.3f} / {100 * fmean(drift.top1):.1f}"


def _job(model: Path, inputs: Path, result: Path, entries: dict[str, str]) -> dict[str, Any]:
    return {"model": str(model), "inputs": str(inputs), "result": str(result), "entries": entries}


def _exactness(errors: Iterable[npt.NDArray[Any]]) -> str:
    of_all = [each.ravel() for each in errors]
    if not of_all:
        return ""
    together = np.concatenate(of_all)
    return f"{(together > 0).mean():.0%}, {together.max():.2g}" if together.any() else "exact"


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _listed(numbers: Iterable[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}"


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for artifacts, ARM packages and results")
    parser.add_argument("--only", metavar="TEXT", default="", help="only CPUs with this in their name, such as qemu")
    given = parser.parse_args()
    work: Path = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["ORT_GQA_DISABLE_FLASH_ATTENTION"] = "1"  # as our runtime does
    comparison = Comparison(load_inputs(load_recipe(str(HERE / "recipe.yaml"))), work)
    left_out = []
    for cpu in CPUS:
        if given.only not in cpu.name:
            continue
        reason = cpu.missing()
        try:
            if not reason:
                comparison.add(cpu)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or "").strip().splitlines()
            reason = f"ended with {error.returncode} ({said[-1] if said else error.cmd[0]})"
        if reason:
            left_out.append(f"{cpu.name}: left out; {reason}")
    comparison.print()
    for line in (
        *left_out,
        f"This machine: {machine.cpu()}, onnxruntime {machine.library_versions()['onnxruntime']}.",
    ):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
