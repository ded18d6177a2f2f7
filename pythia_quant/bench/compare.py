"""Compare two results, of two versions or two machines, and find the values that differ by more than their error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from pythia_quant.bench.metrics import METRICS, PER_PROCESS, Metric, Value, outdated, outdated_sizes
from pythia_quant.bench.statistics import differences, mean_of_samples, mean_of_windows
from pythia_quant.core.errors import BenchmarkError, nearest
from pythia_quant.records.results import Results, Row

Verdict = Literal["same", "better", "worse", "changed"]

LEAST_CHANGE = 1e-3
"""The least difference that counts, as a share of the value.

On another processor, or with another number of threads, the same program adds numbers in another order. The resulting
difference can exceed the paired error."""


@dataclass(frozen=True)
class Change:
    """One value of one row in two results.

    Attributes:
        row: the name of the row.
        metric: the value's key in :data:`~pythia_quant.bench.metrics.METRICS`.
        before: the value in the first result.
        after: the value in the second result.
        difference: `after` less `before`, with an interval. If both are means over the same windows or examples, it is
            the paired 95 % interval; if each process gave one sample, the 95 % interval of two means; else it is from
            the lowest to the highest difference of the ends of both intervals.
        verdict: ``same`` if the interval contains 0, or the difference is below :data:`LEAST_CHANGE` of the value.
    """

    row: str
    metric: str
    before: Value
    after: Value
    difference: Value
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """The comparison of two results.

    Attributes:
        changes: every value of every row that both results have, with its difference.
        notes: sentences on what differs apart from the values, and on what is not compared.
    """

    changes: list[Change]
    notes: list[str]

    @property
    def worse(self) -> list[Change]:
        """The values that became worse by more than their error."""
        return [change for change in self.changes if change.verdict == "worse"]


def compare_results(
    before: Results,
    after: Results,
    names: tuple[str, str] = ("the first result", "the second result"),
    pairs: Sequence[tuple[str, str]] = (),
) -> Comparison:
    """Compare every value of every row that both results have, or of pairs of rows, such as ours and theirs.

    Args:
        before: the earlier result.
        after: the later result.
        names: what notes and errors call the two.
        pairs: the names of a row of `before` and of one of `after`, which are compared in place of rows of one name.

    Raises:
        BenchmarkError: they were measured on different texts, or by different protocols, or a row is missing.
    """
    _check_comparable(before, after, " and ".join(names))
    if pairs:
        before, after = (
            _renamed(each, [(pair[side], _ARROW.join(pair)) for pair in pairs], names[side])
            for side, each in enumerate((before, after))
        )
    notes, left_out = _notes(before, after, names)
    after_rows = {row.name: row for row in after.rows}
    changes = [
        change
        for row in before.rows
        if row.name in after_rows
        for metric in METRICS.values()
        if metric.protocol not in left_out
        and (change := _change(metric, row, after_rows[row.name], before, after)) is not None
    ]
    return Comparison(changes, notes)


_ARROW = " → "


def _renamed(results: Results, pairs: Sequence[tuple[str, str]], called: str) -> Results:
    """Return results with the rows of these names, and the baseline, under new names.

    Raises:
        BenchmarkError: there is no such row.
    """
    rows = {row.name: row for row in results.rows}
    for name, _ in pairs:
        if name not in rows:
            raise BenchmarkError(f"there is no row {name!r}", where=called, hint=nearest(name, rows))
    renamed = [rows[name].model_copy(update={"name": shown}) for name, shown in pairs]
    others = [row for row in results.rows if not row.quantized and row.foreign is None]
    return results.model_copy(update={"rows": [*renamed, *others]})


def _check_comparable(before: Results, after: Results, where: str) -> None:
    versions = before.protocol.version, after.protocol.version
    if versions[0] != versions[1]:
        raise BenchmarkError(
            f"drift was measured by versions {versions[0]} and {versions[1]} of the protocol windows, which take "
            "other windows of the text",
            where=where,
            hint="measure the older one again: bench takes its artifacts",
        )
    hint = "measure both alike: bench takes --recipe and --text"
    if before.text.sha256 != after.text.sha256:
        texts = f"{before.text.sha256[:64]} and {after.text.sha256[:64]}"
        raise BenchmarkError(f"the results were measured on another text: {texts}", where=where, hint=hint)
    first, second = before.protocol.model_dump(), after.protocol.model_dump()
    if differences := [f"{key} {first[key]} and {second[key]}" for key in first if first[key] != second[key]]:
        what = f"the results were measured by another protocol: {', '.join(differences)}"
        raise BenchmarkError(what, where=where, hint=hint)


def _notes(before: Results, after: Results, called: tuple[str, str]) -> tuple[list[str], set[str]]:
    """Return sentences on what differs apart from the values, and the protocols whose values cannot be compared."""
    warnings = [warning(results) for warning in (outdated, outdated_sizes) for results in (before, after)]
    notes, left_out = [note for note in dict.fromkeys(warnings) if note], set()
    if before.size_version != after.size_version:
        left_out.add("size")
    if before.source.sha256 != after.source.sha256:
        notes.append(f"The sources' weights differ: {before.source.model}, {after.source.model}.")
    if before.machine != after.machine:
        notes.append("The machines, or the libraries on them, differ.")
    if before.latency and after.latency and before.latency != after.latency:
        notes.append("Speed was measured by different protocols: it is not compared.")
        left_out.add("latency")
    if before.lambada and after.lambada and before.lambada.sha256 != after.lambada.sha256:
        notes.append("LAMBADA was measured on different files: it is not compared.")
        left_out.add("lambada")
    names = [{row.name for row in results.rows} for results in (before, after)]
    for result, only in zip(called, (names[0] - names[1], names[1] - names[0]), strict=True):
        notes += [f"Only {result} has {name}." for name in sorted(only)]
    theirs = dict.fromkeys(row.name.rpartition(_ARROW)[2] for row in (*before.rows, *after.rows) if row.foreign)
    notes += [f"{name} is not ours: nothing proves the integrity of its files." for name in theirs]
    for results in (before, after):
        notes += [f"{row.name}: {speed.disturbed}." for row in results.rows for speed in row.speeds if speed.disturbed]
    return notes, left_out


def _change(metric: Metric, row: Row, other: Row, before: Results, after: Results) -> Change | None:
    first, second = metric.value_of(row, before), metric.value_of(other, after)
    if first is None or second is None:
        return None
    difference = _paired_difference(metric.key, row, other, first, second)
    if difference is None and metric.key in PER_PROCESS:
        difference = _process_difference(*(PER_PROCESS[metric.key](each.speeds[0]) for each in (row, other)))
    if difference is None:
        difference = Value(second.value - first.value, second.low - first.high, second.high - first.low)
    return Change(row.name, metric.key, first, second, difference, _verdict(metric, first, difference))


def _verdict(metric: Metric, before: Value, difference: Value) -> Verdict:
    if math.isnan(difference.value) or difference.low <= 0 <= difference.high:
        return "same"
    if math.isfinite(before.value) and abs(difference.value) < LEAST_CHANGE * abs(before.value):
        return "same"
    if not metric.better:
        return "changed"
    return "better" if (difference.value < 0) == (metric.better == "lower") else "worse"


def _paired_difference(key: str, row: Row, other: Row, first: Value, second: Value) -> Value | None:
    """Return the difference of two means over the same windows or examples; None for other values.

    What is difficult about a window affects both means, and cancels in the difference.
    """
    if key in _SAMPLES:
        samples, scale = _SAMPLES[key]
        one, two = samples(row), samples(other)
        if one and len(one) == len(two):
            mean = mean_of_windows if METRICS[key].protocol == "windows" else mean_of_samples
            margin = abs(scale * mean(differences(two, one)).margin)
            difference = second.value - first.value
            return Value(difference, difference - margin, difference + margin)
    return None


def _process_difference(before: Sequence[float], after: Sequence[float]) -> Value:
    """Return the difference of two means of a few samples each, with its 95 % interval by Student's t."""
    difference = fmean(after) - fmean(before)
    if min(len(before), len(after)) < 2:
        return Value(difference, -math.inf, math.inf)
    margin = math.hypot(mean_of_samples(before).margin, mean_of_samples(after).margin)
    return Value(difference, difference - margin, difference + margin)


def _as_run(field: Literal["nll", "kl", "top1", "top5"]) -> Callable[[Row], Sequence[float]]:
    return lambda row: getattr(row.as_run, field) if row.as_run else []


def _weights(field: Literal["nll", "kl"]) -> Callable[[Row], Sequence[float]]:
    return lambda row: getattr(row.weights, field) if row.weights else []


def _hits(row: Row) -> list[float]:
    return [float(hit) for hit in row.lambada.greedy] if row.lambada else []


# The samples of each value that is a mean, and the factor from their unit to that of the value. The drift of a
# perplexity in percent is 100 times the difference of log-likelihoods, if drifts are of a few percent.
_SAMPLES: dict[str, tuple[Callable[[Row], Sequence[float]], float]] = {
    "ppl_drift": (_as_run("nll"), 100),
    "ppl_drift_weights": (_weights("nll"), 100),
    "kl": (_as_run("kl"), 1e3),
    "kl_weights": (_weights("kl"), 1e3),
    "top1": (_as_run("top1"), 100),
    "top5": (_as_run("top5"), 100),
    "lambada_accuracy": (_hits, 100),
}
