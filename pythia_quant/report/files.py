"""The result files of one report, each under a letter and a short label that no other has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.records.results import RESULTS, Machine, Results, load_results

_UNREMARKABLE = ("main", "builtin")


@dataclass(frozen=True)
class ResultFile:
    """One result file.

    Attributes:
        letter: stands for the file in plots of several files.
        model: the model's short name, with the revision where it says something.
        label: the same with as much of machine and text as tells the files apart.
        path: where it was read.
        sha256: of the file.
        results: its content.
    """

    letter: str
    model: str
    label: str
    path: Path
    sha256: str
    results: Results

    @property
    def slug(self) -> str:
        """Letter and model as part of a file's name: what is no letter of the alphabet or digit becomes a hyphen."""
        kept = "".join(sign if sign.isascii() and sign.isalnum() else " " for sign in self.model)
        return "-".join([self.letter.lower(), *kept.split()])[:80]


def read_files(paths: Sequence[Path]) -> list[ResultFile]:
    """Read result files; a folder stands for the results.json in it.

    Raises:
        BenchmarkError: none is given, or one cannot be read.
    """
    if not paths:
        raise BenchmarkError("no result file was given", hint="give a results.json that run or bench has left")
    paths = [path / RESULTS if path.is_dir() else path for path in paths]
    contents = [load_results(path) for path in paths]
    labels = short_labels(contents)
    return [
        ResultFile(letter(index), _model(results), label, path, sha256(path), results)
        for index, (label, path, results) in enumerate(zip(labels, paths, contents, strict=True))
    ]


def letter(index: int) -> str:
    """Return A to Z, then AA, AB and on, as a spreadsheet names its columns."""
    before, last = divmod(index, 26)
    return (letter(before - 1) if before else "") + chr(ord("A") + last)


def short_labels(contents: Sequence[Results]) -> list[str]:
    """Return a label for each: the machine when there are several, the text where that is all that differs."""
    several_machines = len({_machine(results.machine) for results in contents}) > 1
    labels = [_model(results) for results in contents]
    if several_machines:
        labels = [f"{label} · {_machine(results.machine)}" for label, results in zip(labels, contents, strict=True)]
    labels = _told_apart(labels, [results.text.name for results in contents])
    return _told_apart(labels, [str(number) for number in range(1, len(labels) + 1)])


def _model(results: Results) -> str:
    source = results.source
    name = PurePosixPath(source.model.replace("\\", "/")).name or source.model
    return name if source.revision in _UNREMARKABLE else f"{name} @ {source.revision}"


def _machine(machine: Machine) -> str:
    name = machine.accelerator or machine.cpu or "unnamed machine"
    return f"{name}, {machine.cores} cores"


def _told_apart(labels: list[str], additions: list[str]) -> list[str]:
    count = Counter(labels)
    return [
        f"{label} · {addition}" if count[label] > 1 else label
        for label, addition in zip(labels, additions, strict=True)
    ]
