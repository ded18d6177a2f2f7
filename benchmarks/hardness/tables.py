"""One Markdown table of all results: the mean KL on each kind of text, in mnat, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import Any

from hardness.texts import EVALUATION
from pythia_quant.bench.statistics import Estimate, differences, mean_of_windows

Record = dict[str, Any]
Group = tuple[str, str, str, int]
"""Model, method, calibration text and windows: the rows that differ only in the draw."""


def table(records: Iterable[Record], what: str, against: str | None = None) -> str:
    """Return the table.

    The values of a window are first averaged over the draws. The interval is for text of this kind: it comes from
    batches of neighbouring windows (:mod:`pythia_quant.bench.statistics`). The spread of the draws is beside it.

    Args:
        records: rows of a result file.
        what: ``weights`` or ``as_run``; a method that has no such value has an empty cell.
        against: a method; each row then has the differences from it, paired by window and draw.
    """
    groups: dict[Group, dict[int, Record]] = {}
    for each in records:
        group = (each["model"], each["method"], each["calibration"], each["windows"])
        groups.setdefault(group, {})[each["draw"]] = each["texts"]
    kinds = [kind for kind in EVALUATION if any(kind in texts for draws in groups.values() for texts in draws.values())]
    lines = [_line(["model", "method", "calibrated on", *kinds]), _line(["---"] * (3 + len(kinds)))]
    for group in sorted(groups, key=lambda each: (each[0], each[2], each[3])):
        model, method, calibration, windows = group
        other = groups.get(_other(group, against or "", groups)) if against else None
        if against and (other is None or method == against):
            continue
        cells = [_cell(groups[group], other, kind, what) for kind in kinds]
        if any(cells):
            lines.append(_line([model, method, f"{windows} {calibration}" if windows else "", *cells]))
    return "\n".join(lines)


def _other(group: Group, against: str, groups: dict[Group, dict[int, Record]]) -> Group:
    """Return the group that one is compared with: of the same calibration, or of a method that does not calibrate."""
    same = (group[0], against, *group[2:])
    return same if same in groups else (group[0], against, "", 0)


def _cell(draws: dict[int, Record], others: dict[int, Record] | None, kind: str, what: str) -> str:
    samples = []
    for draw, texts in sorted(draws.items()):
        values = texts.get(kind, {}).get(what)
        if values is None:
            return ""
        if not values:
            return "not finite"
        if others is not None:
            paired = others.get(draw, others.get(0, {})).get(kind, {}).get(what)
            if not paired:
                return ""
            values = differences(values, paired)
        samples.append(values)
    mean = mean_of_windows([fmean(window) for window in zip(*samples, strict=True)])
    spread = sorted(1e3 * fmean(values) for values in samples)
    apart = f" ({_short(spread[0])} … {_short(spread[-1])})" if len(samples) > 1 else ""
    return f"{_short(1e3 * mean.value)} ± {_margin(mean)}{apart}"


def _margin(mean: Estimate) -> str:
    return _short(1e3 * mean.margin)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
