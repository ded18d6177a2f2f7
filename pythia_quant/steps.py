"""Training steps as text: parse the lists and ranges of revisions that a user writes, and print steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pythia_quant.core.errors import SourceError
from pythia_quant.core.text import short
from pythia_quant.suite import closest, step_of

_RANGE = re.compile(r"(?:all|step(\d{1,9})\.\.step(\d{1,9}))(?:/([1-9]\d{0,8}))?", re.ASCII)
_FORMS = "give one such as step1000..step3000, step1000..step143000/10 (every tenth of them), or all"


def names_several(text: str) -> bool:
    """Say whether `text` is more than the name of one revision: a list or a range."""
    return "," in text or _is_range(text)


def parse_revisions(text: str, published: Sequence[int] | None) -> list[str]:
    """Return the revisions that `text` names, each once: ``step0,step512``, ``step1000..step3000``, ``all``.

    A range has both its ends and the published steps between; with ``/10`` the first of them and every tenth after it.

    Args:
        text: revisions and ranges, with commas between.
        published: the steps there are, ascending; None when they are not known.

    Raises:
        SourceError: a step was not published (the nearest is named), a range is none, or `published` is not known.
    """
    return list(dict.fromkeys(one for item in text.split(",") for one in _revisions(item.strip(), published)))


def printed_steps(steps: Iterable[int], published: Iterable[int]) -> str:
    """Return steps as a short text such as ``0–512, 1000–53000, 55000``: ranges are of neighbours in `published`.

    The early steps, powers of two, and the later ones are never in one range.
    """
    place = {step: index for index, step in enumerate(sorted(published))}
    runs: list[list[int]] = []
    for step in sorted(steps):
        last = runs[-1][-1] if runs else None
        if last is not None and place[step] == place[last] + 1 and (last < 1000) == (step < 1000):
            runs[-1].append(step)
        else:
            runs.append([step])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _is_range(text: str) -> bool:
    return ".." in text or text.partition("/")[0] == "all"


def _revisions(item: str, published: Sequence[int] | None) -> list[str]:
    if not item:
        raise SourceError("a list of revisions has an empty place", hint="give one such as step0,step512")
    if not _is_range(item):
        step = step_of(item)
        if published is not None and step is not None:
            _check(step, published)
        return [item]
    parts = _RANGE.fullmatch(item)
    if parts is None:
        raise SourceError(f"{short(item)} is no range of revisions", hint=_FORMS)
    if published is None:
        raise SourceError(
            f"{short(item)} needs to know which steps there are, and the model is not of the suite",
            hint="give a list such as step0,step512; pythia-quant source MODEL --steps all shows what a hub has",
        )
    first, last = (int(end) if end else None for end in parts.group(1, 2))
    if first is None or last is None:
        within = list(published)
    else:
        _check(first, published)
        _check(last, published)
        if first > last:
            raise SourceError(f"{short(item)} ends before it begins", hint=_FORMS)
        within = [step for step in published if first <= step <= last]
    return [f"step{step}" for step in within[:: int(parts[3] or 1)]]


def _check(step: int, published: Sequence[int]) -> None:
    if step not in published:
        raise SourceError(
            f"step{step} was never published",
            hint=f"the nearest published revision is step{closest(step, published)}; there are {len(published)}",
        )
