"""The result files of one report, each with a letter and a short label of its own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.records.results import QUICK_RESULTS, RESULTS, Machine, Results, load_results

_USUAL_REVISIONS = ("main", "builtin")


@dataclass(frozen=True)
class ResultFile:
    """One result file.

    Attributes:
        letter: stands for the file in plots of several files.
        model: the model's short name, with the revision where it is not the usual one.
        label: the same, with machine and text where the label would otherwise not be unique.
        name: the file's name, with as many of its folders as tell it from the others.
        path: of the file.
        sha256: of the file.
        results: its content.
    """

    letter: str
    model: str
    label: str
    name: str
    path: Path
    sha256: str
    results: Results

    @property
    def slug(self) -> str:
        """Letter and model as part of a file's name: other characters than letters and digits become hyphens."""
        words = "".join(sign if sign.isascii() and sign.isalnum() else " " for sign in self.model)
        return "-".join([self.letter.lower(), *words.split()])[:80]


def read_files(paths: Sequence[Path]) -> list[ResultFile]:
    """Read result files; a folder stands for the results.json in it.

    Raises:
        BenchmarkError: none is given, or one cannot be read.
    """
    if not paths:
        raise BenchmarkError("no result file was given", hint="give a results.json that run or bench has left")
    paths = [path / RESULTS if path.is_dir() else path for path in paths]
    contents = [load_results(path) for path in paths]
    names = file_names(paths)
    labels = short_labels(contents, names)
    return [
        ResultFile(letter(index), _model(results), label, name, path, sha256(path), results)
        for index, (label, name, path, results) in enumerate(zip(labels, names, paths, contents, strict=True))
    ]


def find_results(path: Path) -> Path:
    """Return a result file: `path` itself, or the newest one in that folder, else below it.

    Raises:
        BenchmarkError: the folder has none.
    """
    if not path.is_dir():
        return path
    if (path / RESULTS).is_file():
        return path / RESULTS
    below = [
        one for one in path.rglob(RESULTS) if not any(part.startswith(".") for part in one.relative_to(path).parts)
    ]
    if not below:
        quick = path / QUICK_RESULTS
        hint = f"run --quick has left {quick}: give that file" if quick.is_file() else "run and bench leave one"
        raise BenchmarkError(f"there is no {RESULTS} in or below it", where=str(path), hint=hint)
    return max(below, key=lambda one: one.stat().st_mtime)


def file_names(paths: Sequence[Path]) -> list[str]:
    """Return for each file as many of the last parts of its path as tell it from the others.

    A results.json is called by its folder. A file that is given twice has the same name twice.
    """
    parts = [path.parts[:-1] if path.name == RESULTS and path.parts[:-1] else path.parts for path in map(_whole, paths)]
    shown = [1] * len(parts)
    for _ in range(max(map(len, parts), default=0)):
        ends = [each[-count:] for each, count in zip(parts, shown, strict=True)]
        alike = {
            end for end in ends if len({each for each, other in zip(parts, ends, strict=True) if other == end}) > 1
        }
        shown = [count + (end in alike) for count, end in zip(shown, ends, strict=True)]
    return [str(PurePath(*each[-count:])) for each, count in zip(parts, shown, strict=True)]


def _whole(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links to other names


def letter(index: int) -> str:
    """Return A to Z, then AA, AB and so on, as spreadsheets name their columns."""
    before, last = divmod(index, 26)
    return (letter(before - 1) if before else "") + chr(ord("A") + last)


def short_labels(contents: Sequence[Results], names: Sequence[str]) -> list[str]:
    """Return a unique label for each file.

    A label has the model, the machine when there are several, and the text, the file's name of `names`, then a number,
    where that is needed.
    """
    several_machines = len({_machine(results.machine) for results in contents}) > 1
    labels = [_model(results) for results in contents]
    if several_machines:
        labels = [f"{label} · {_machine(results.machine)}" for label, results in zip(labels, contents, strict=True)]
    if len({results.text.name for results in contents}) > 1:
        labels = _make_distinct(labels, [results.text.name for results in contents])
    labels = _make_distinct(labels, names)
    return _make_distinct(labels, [str(number) for number in range(1, len(labels) + 1)])


def _model(results: Results) -> str:
    source = results.source
    name = PurePosixPath(source.model.replace("\\", "/")).name or source.model
    return name if source.revision in _USUAL_REVISIONS else f"{name} @ {source.revision}"


def _machine(machine: Machine) -> str:
    name = machine.accelerator or machine.cpu or "unnamed machine"
    return f"{name}, {machine.cores} cores"


def _make_distinct(labels: list[str], additions: Sequence[str]) -> list[str]:
    """Append its addition to each label that occurs more than once."""
    count = Counter(labels)
    return [
        f"{label} · {addition}" if count[label] > 1 else label
        for label, addition in zip(labels, additions, strict=True)
    ]
