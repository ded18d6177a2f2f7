"""Under which conditions the lines of a study were measured, and what is not in its curves, and why."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pythia_quant.report.numbers import plural
from pythia_quant.sweep.series import Line, Panel, Table, counts, named_lines, value_of

_MOST_SHOWN = 12


@dataclass(frozen=True)
class Condition:
    """One condition, with each of its values and a note on how many lines have it."""

    term: str
    values: Sequence[tuple[str, str]]
    more: int


@dataclass(frozen=True)
class Gap:
    """Revisions with one thing in common: what it is, and the revisions by model, or what they are of."""

    what: str
    where: Sequence[tuple[str, str]]


def _windows(line: Line) -> str:
    windows, context = line["windows"], line["context"]
    return "" if windows is None or context is None else f"{windows:,} windows of {context:,} tokens"


def _versions(line: Line) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(_packages(line).items()))


def _packages(line: Line) -> dict[str, Any]:
    try:
        packages = json.loads(line["versions"] or "{}")
    except (ValueError, RecursionError):
        return {"unreadable": line["versions"]}
    return packages if isinstance(packages, dict) else {"unreadable": line["versions"]}


_COMPARED: dict[str, Callable[[Line], str]] = {
    "text": lambda line: line["text_sha256"] or "", "windows": _windows, "versions": _versions,
    "processor": lambda line: line["cpu"] or "",
}  # fmt: skip
_TERMS: dict[str, Callable[[Line], str]] = {
    "text, sha256": _COMPARED["text"], "windows": _windows, "versions": _versions, "processor": _COMPARED["processor"],
    "runtimes": lambda line: line["runtime"] or "", "tool": lambda line: line["tool"] or "",
    "measured on": lambda line: (line["created"] or "")[:10],
}  # fmt: skip


def conditions(tables: Sequence[Table], letters: Sequence[str]) -> list[Condition]:
    """Return the conditions of all lines that have a result, each value with the number of its lines."""
    found = []
    for term, shown in _TERMS.items():
        lines: Counter[str] = Counter()
        owners: dict[str, list[str]] = defaultdict(list)
        for letter, (_, table) in zip(letters, tables, strict=True):
            own = Counter(value for line in table if line["status"] == "done" and (value := shown(line)))
            lines += own
            for value in own:
                owners[value].append(letter)
        values = []
        for value, count in list(lines.items())[:_MOST_SHOWN]:
            note = plural(count, "line") if len(lines) > 1 else ""
            values.append((value, ", ".join(filter(None, (note, *owners[value])))))
        if values:
            found.append(Condition(term, values, max(0, len(lines) - _MOST_SHOWN)))
    return found


def differences(lines: Iterable[Line]) -> list[str]:
    """Return what differs between the conditions of lines, a phrase each, such as ``2 texts``."""
    table = list(lines)
    phrases = []
    for name, shown in _COMPARED.items():
        values = {value for line in table if (value := shown(line))}
        if len(values) < 2:
            continue
        if name == "versions":
            phrases += _differing_packages(table)
        elif name == "windows":
            phrases.append(" and ".join(sorted(values)))
        else:
            phrases.append(plural(len(values), name))
    return phrases


def _differing_packages(lines: Sequence[Line]) -> list[str]:
    versions: dict[str, dict[str, None]] = defaultdict(dict)
    every = [_packages(line) for line in lines]
    for packages in {json.dumps(one, sort_keys=True): one for one in every if one}.values():
        for name, version in packages.items():
            versions[name][str(version)] = None
    return [f"{name} {' and '.join(found)}" for name, found in versions.items() if len(found) > 1]


def warnings(tables: Sequence[Table], letters: Sequence[str], found: Sequence[Panel]) -> list[str]:
    """Return sentences about plots whose lines were measured under different conditions; none if all are the same."""
    drawn: dict[str, list[Line]] = defaultdict(list)
    for _, name, line in named_lines(tables, letters):
        if counts(line) and any(panel.name == name for panel in found):
            drawn[name].append(line)
    inside = {name: phrases for name, lines in drawn.items() if (phrases := differences(lines))}
    if inside and len(set(map(tuple, inside.values()))) == 1 and len(inside) == len(drawn):
        return [
            f"Lines of one plot were measured under different conditions: {'; '.join(next(iter(inside.values())))}."
        ]
    sentences = [
        f"Lines of the plot {name} were measured under different conditions: {'; '.join(phrases)}."
        for name, phrases in inside.items()
    ]
    between = differences(line for lines in drawn.values() for line in lines)
    if between and not inside:
        sentences.append(f"The plots were measured under different conditions: {'; '.join(between)}.")
    return sentences


def duplicates(tables: Sequence[Table]) -> list[Gap]:
    """Return, for each source whose weights others repeat, the revisions that repeat it."""
    return _gaps(tables, lambda line: line["duplicate_of"])


def missing(tables: Sequence[Table]) -> list[Gap]:
    """Return the revisions that do not exist, by the reason."""
    return _gaps(tables, lambda line: (line["problem"] or "no reason") if line["status"] == "missing" else None)


def failures(tables: Sequence[Table]) -> list[Gap]:
    """Return the jobs that failed, by their problem."""
    return _gaps(tables, lambda line: (line["problem"] or "no reason") if line["status"] == "failed" else None, _job)


def unfinished(tables: Sequence[Table]) -> list[Gap]:
    """Return the jobs that are still to do, and those that were done and have no value or no place."""

    def reason(line: Line) -> str | None:
        if line["status"] == "open":
            return "not measured yet"
        if line["status"] == "done" and value_of(line, "kl") is None:
            return "measured, but the divergence is not finite"
        if line["status"] == "done" and line["step"] is None:
            return "measured, but the revision names no training step"
        return None

    return _gaps(tables, reason, _job)


def _job(line: Line) -> str:
    return f"{line['variant']} of {line['model']}"


def _gaps(
    tables: Sequence[Table], reason: Callable[[Line], str | None],
    owner: Callable[[Line], str] = lambda line: line["model"],
) -> list[Gap]:  # fmt: skip
    found: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for _, lines in tables:
        for line in lines:
            if what := reason(line):
                found[what][owner(line)][line["revision"]] = None
    return [
        Gap(what, [(name, ", ".join(revisions)) for name, revisions in owners.items()])
        for what, owners in found.items()
    ]
