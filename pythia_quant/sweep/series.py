"""The lines of tables as curves: a metric against tokens or steps, of each variant, size and table, over the seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pythia_quant.bench.metrics import Value
from pythia_quant.bench.statistics import mean_of_samples
from pythia_quant.sweep.jobs import FLOOR
from pythia_quant.sweep.seeds import seed_spreads

_SPREAD_OF = "ppl_drift"
"""The metric that the spread over seeds can stand beside: both are percent of the perplexity."""

Line = Mapping[str, Any]
"""A line of a table; its keys are those of :data:`pythia_quant.sweep.table.SCHEMA`."""
Table = tuple[str, Sequence[Line]]
"""A table with its label."""


@dataclass(frozen=True)
class Point:
    """A value at a training step.

    Attributes:
        step: the step.
        tokens: the tokens seen until then; None if that is not known.
        value: the value with its 95 % interval, in the metric's unit.
        seeds: the number of training runs that it is the mean of.
    """

    step: int
    tokens: int | None
    value: Value
    seeds: int = 1


@dataclass(frozen=True)
class Curve:
    """A metric of one variant of one size.

    Attributes:
        variant: the variant, or the floor.
        runs: the points of each training run, by rising steps.
        mean: the points of the mean over the runs; those of the run if there is one.
    """

    variant: str
    runs: Sequence[Sequence[Point]]
    mean: Sequence[Point]

    @property
    def is_floor(self) -> bool:
        """Whether this is the source itself in fp16."""
        return self.variant == FLOOR

    def at(self, step: int) -> Point | None:
        """Return the point of the mean at a step."""
        return next((point for point in self.mean if point.step == step), None)


@dataclass(frozen=True)
class Panel:
    """The curves that share one plot: those of one size, family and table.

    Attributes:
        name: size and family, and the table's letter if there are several; unique.
        curves: the curves, in the order of the table.
        rates: step, tokens and learning rate, by rising steps; empty if rates are not known.
        spread: the spread over seeds by rising steps: the standard deviation of the reference's perplexity in percent,
            with its interval. Empty if the metric is another one, or no step has two seeds.
    """

    name: str
    curves: Sequence[Curve]
    rates: Sequence[tuple[int, int | None, float]]
    spread: Sequence[Point] = ()

    @property
    def floor(self) -> Curve | None:
        """The fp16 floor."""
        return next((curve for curve in self.curves if curve.is_floor), None)


def counts(line: Line) -> bool:
    """Say whether a line was measured at a training step, and is not a repetition of another revision's weights."""
    return line["status"] == "done" and line["duplicate_of"] is None and line["step"] is not None


def panels(tables: Sequence[Table], letters: Sequence[str], metric: str) -> list[Panel]:
    """Return the panels of a metric: by table, then from small to large models.

    Args:
        tables: the tables.
        letters: the letter of each table; empty strings if there is one table.
        metric: the metric's key.
    """
    parts: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for letter, name, line in named_lines(tables, letters):
        if counts(line) and value_of(line, metric) is not None:
            parts[(letter, name)].append(line)

    def order(part: tuple[str, str]) -> tuple[int, int]:
        return letters.index(part[0]), max(line["parameters"] or 0 for line in parts[part])

    return [
        Panel(
            name,
            [_curve(variant, group, metric) for variant, group in _by(lines, "variant").items()],
            _rates(lines),
            _spread(lines) if metric == _SPREAD_OF else [],
        )
        for (_, name), lines in sorted(parts.items(), key=lambda item: order(item[0]))
    ]


def named_lines(tables: Sequence[Table], letters: Sequence[str]) -> Iterator[tuple[str, str, Line]]:
    """Yield each line with its table's letter and its panel's name: letter, size, the family if a table has several."""
    for letter, (_, lines) in zip(letters, tables, strict=True):
        several = len({line["family"] for line in lines}) > 1
        for line in lines:
            names = (letter, line["size"] or "unnamed", line["family"] if several else "")
            yield letter, " ".join(filter(None, names)), line


def uses_tokens(found: Iterable[Panel]) -> bool:
    """Say whether the tokens are known at every point, so that curves can stand over them."""
    return all(
        point.tokens is not None for panel in found for curve in panel.curves for run in curve.runs for point in run
    )


def _by(lines: Iterable[Line], key: str) -> dict[Any, list[Line]]:
    groups: dict[Any, list[Line]] = defaultdict(list)
    for line in lines:
        groups[line[key]].append(line)
    return groups


def _curve(variant: str, lines: Sequence[Line], metric: str) -> Curve:
    runs = [_run(group, metric) for group in _training_runs(lines)]
    by_step: dict[int, list[Point]] = defaultdict(list)
    for point in (point for run in runs for point in run):
        by_step[point.step].append(point)
    return Curve(variant, runs, [_mean(by_step[step]) for step in sorted(by_step)])


def _training_runs(lines: Sequence[Line]) -> list[list[Line]]:
    """Return the lines of each training run: of a seed, or of a model where a seed has several at one step."""
    runs = []
    for seed_lines in _by(lines, "seed").values():
        clash = len({line["step"] for line in seed_lines}) < len(seed_lines)
        runs += list(_by(seed_lines, "model").values()) if clash else [seed_lines]
    return runs


def _run(lines: Sequence[Line], metric: str) -> list[Point]:
    points = {
        line["step"]: Point(line["step"], line["tokens"], value)
        for line in lines
        if (value := value_of(line, metric)) is not None
    }
    return [points[step] for step in sorted(points)]


def value_of(line: Line, metric: str) -> Value | None:
    """Return a value of a line, None if it is not finite; an end of its interval that is not there is the value."""
    value, low, high = (line[name] for name in (metric, f"{metric}_low", f"{metric}_high"))
    if value is None or not math.isfinite(value):
        return None
    ends = [float(end) if end is not None and math.isfinite(end) else float(value) for end in (low, high)]
    return Value(float(value), *ends)


def _mean(points: Sequence[Point]) -> Point:
    """Return the mean over training runs with the 95 % interval from their scatter, by Student's t."""
    first = points[0]
    if len(points) == 1:
        return first
    mean = mean_of_samples([point.value.value for point in points])
    value = Value(mean.value, mean.value - mean.margin, mean.value + mean.margin)
    return Point(first.step, first.tokens, value, len(points))


def _rates(lines: Sequence[Line]) -> list[tuple[int, int | None, float]]:
    rates = {
        line["step"]: (line["step"], line["tokens"], line["learning_rate"])
        for line in lines
        if line["learning_rate"] is not None
    }
    return [rates[step] for step in sorted(rates)]


def _spread(lines: Sequence[Line]) -> list[Point]:
    """Return the spread over seeds at each step; of several texts at a step, that of most seeds."""
    tokens = {line["step"]: line["tokens"] for line in lines}
    points: dict[int, Point] = {}
    for group in seed_spreads(lines).groups:
        spread, step = group.reference, group.step
        if group.kind in ("run", "") and step is not None and spread.value > 0:
            point = Point(step, tokens[step], Value(spread.value, spread.low, spread.high), spread.seeds)
            points[step] = max(points.get(step, point), point, key=lambda one: one.seeds)
    return [points[step] for step in sorted(points)]


@dataclass(frozen=True)
class Change:
    """How a curve changes over training.

    Attributes:
        panel: the curve's panel.
        curve: the curve.
        first: the mean at the first step.
        last: the mean at the last step.
        largest: the mean where it is largest.
        factor: the last value over the first with its 95 % interval; None if one is not positive, or there is one step.
        steps_at_floor: the number of steps at which the mean is not above the floor's interval; None without a floor.
        steps: the number of steps at which both are known.
    """

    panel: Panel
    curve: Curve
    first: Point
    last: Point
    largest: Point
    factor: Value | None
    steps_at_floor: int | None
    steps: int


def changes(found: Sequence[Panel]) -> list[Change]:
    """Return the change of each curve, the floors included."""
    return [_change(panel, curve) for panel in found for curve in panel.curves]


def _change(panel: Panel, curve: Curve) -> Change:
    first, last = curve.mean[0], curve.mean[-1]
    pairs = [
        (point.value, other.value)
        for point in curve.mean
        if panel.floor is not None and (other := panel.floor.at(point.step))
    ]
    at_floor = sum(value.value <= floor.high for value, floor in pairs) if pairs else None
    largest = max(curve.mean, key=lambda point: point.value.value)
    return Change(panel, curve, first, last, largest, _factor(curve), at_floor, len(pairs))


def _factor(curve: Curve) -> Value | None:
    """Return the last value over the first, from the ratios of training runs that have both, or from their intervals.

    Of one run, both values are taken as independent, so the interval is rather too wide: they are on the same text.
    """
    first, last = curve.mean[0], curve.mean[-1]
    if first is last or first.value.value <= 0 or last.value.value <= 0:
        return None
    ends = [
        (run[0].value.value, run[-1].value.value)
        for run in curve.runs
        if (run[0].step, run[-1].step) == (first.step, last.step)
    ]
    if len(ends) > 1 and all(value > 0 for pair in ends for value in pair):
        logs = mean_of_samples([math.log(after / before) for before, after in ends])
        return Value(*(math.exp(logs.value + sign * logs.margin) for sign in (0, -1, 1)))
    log = math.log(last.value.value / first.value.value)
    margin = math.hypot(*((point.value.high - point.value.low) / 2 / point.value.value for point in (first, last)))
    return Value(math.exp(log), math.exp(log - margin), math.exp(log + margin))
