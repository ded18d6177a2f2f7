"""The spread over training seeds: a floor below which a drift is less than what another seed would change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from scipy.stats import chi2
from scipy.stats import t as student

from pythia_quant.bench.metrics import METRICS, Value
from pythia_quant.model import suite
from pythia_quant.sweep.jobs import FLOOR

_NO_DRIFT = ("perplexity", "bits_per_byte")
DRIFTS = tuple(key for key, metric in METRICS.items() if metric.protocol == "windows" and key not in _NO_DRIFT)
"""The metrics of the difference from the reference."""


@dataclass(frozen=True)
class Spread:
    """A standard deviation between seeds, with its 95 % interval; `seeds` is the number of seeds."""

    value: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class VariantSpread:
    """One variant over the seeds.

    Attributes:
        variant: the variant.
        drift: the mean perplexity drift in percent, with its 95 % interval for other seeds and other text.
        spreads: the standard deviation of each drift metric between seeds, in the metric's unit, where two have it.
        against_seeds: whether the drift's size is below or above the reference's spread, or their intervals overlap;
            None if fewer than two seeds have a drift.
    """

    variant: str
    drift: Value | None
    spreads: dict[str, Spread]
    against_seeds: Literal["below", "above", "undecided"] | None


@dataclass(frozen=True)
class SeedGroup:
    """Checkpoints that differ only in the seed.

    Attributes:
        size: their size.
        family: their family.
        kind: what the seed changes: ``run``, ``weight`` or ``data``; empty outside the suite.
        revision: their revision.
        step: their training step, if it is known.
        seeds: their seeds.
        reference: the standard deviation of the reference's log-perplexity between seeds, times 100: for small spreads,
            percent of the perplexity.
        variants: the variants, the fp16 floor among them.
        notices: what is known to be wrong with one of the models.
    """

    size: str
    family: str
    kind: str
    revision: str
    step: int | None
    seeds: list[int]
    reference: Spread
    variants: list[VariantSpread]
    notices: list[str]


@dataclass(frozen=True)
class SeedStudy:
    """All groups of a table, and how many checkpoints with a seed have no second one to compare with."""

    groups: list[SeedGroup]
    alone: int


def spread_of(values: Sequence[float]) -> Spread:
    """Return the standard deviation of at least two values, with the chi-square interval for normal ones."""
    freedom, deviation = len(values) - 1, stdev(values)
    low, high = (deviation * math.sqrt(freedom / float(chi2.ppf(share, freedom))) for share in (0.975, 0.025))
    return Spread(deviation, low, high, len(values))


def seed_spreads(lines: Sequence[Mapping[str, Any]]) -> SeedStudy:
    """Return the spread between seeds of every checkpoint that has two of them, measured on the same text.

    Lines that are not done, that repeat another line's weights, or that have no seed do not count. The table has no
    perplexity of the reference; a row's perplexity and its drift give it exactly, because both are of the same windows.
    The floor's row is used if it is there. The seed of the suite's own models, 0, belongs to all kinds of seeds.

    Args:
        lines: lines as :func:`pythia_quant.sweep.table.read_table` gives them.
    """
    usable = [
        line for line in lines
        if line["status"] == "done" and line["duplicate_of"] is None and line["seed"] is not None
    ]  # fmt: skip
    keys = [_key(line) for line in usable]
    kinds: dict[tuple[Any, ...], set[str]] = {}
    for line, key in zip(usable, keys, strict=True):
        kinds.setdefault(key, set()).add(_kind(line))
    groups: dict[tuple[Any, ...], dict[int, list[Mapping[str, Any]]]] = {}
    for line, key in zip(usable, keys, strict=True):
        kind = _kind(line)
        for each in (kinds[key] - {""} or {""}) if not kind else {kind}:
            groups.setdefault((*key, each), {}).setdefault(line["seed"], []).append(line)
    found, alone = [], 0
    for (size, family, revision, step, *_, kind), seeds in groups.items():
        references = {seed: value for seed, rows in seeds.items() if (value := _reference(rows)) is not None}
        if len(references) < 2:
            alone += len(seeds)
            continue
        reference = spread_of([100 * value for value in references.values()])
        rows = [row for seed in sorted(references) for row in seeds[seed]]
        variants = [_variant(name, rows, reference) for name in dict.fromkeys(row["variant"] for row in rows)]
        notices = {notice for row in rows if (notice := suite.resolve(row["model"])[1])}
        found.append(
            SeedGroup(size, family, kind, revision, step, sorted(references), reference, variants, sorted(notices))
        )
    return SeedStudy(found, alone)


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("size", "family", "revision", "step", "text_sha256", "windows", "context")
    return tuple(line[name] for name in names)


def _kind(line: Mapping[str, Any]) -> str:
    member = suite.find(line["model"])
    return (member.seed_kind if member else None) or ""


def _reference(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the logarithm of the reference's perplexity; None if no row has a perplexity and a finite drift."""
    for row in sorted(rows, key=lambda row: row["variant"] != FLOOR):
        if row["perplexity"] is not None and row["ppl_drift"] is not None:
            return math.log(row["perplexity"]) - math.log1p(row["ppl_drift"] / 100)
    return None


def _variant(name: str, rows: Sequence[Mapping[str, Any]], reference: Spread) -> VariantSpread:
    own = list({row["seed"]: row for row in rows if row["variant"] == name}.values())
    values = {key: [row[key] for row in own if row[key] is not None] for key in DRIFTS}
    spreads = {key: spread_of(numbers) for key, numbers in values.items() if len(numbers) > 1}
    drifts = values["ppl_drift"]
    if len(drifts) < 2:
        return VariantSpread(name, None, spreads, None)
    # Other seeds would give another mean; the text is the same for all, so its part does not become less by averaging.
    between = float(student.ppf(0.975, len(drifts) - 1)) * stdev(drifts) / math.sqrt(len(drifts))
    text = fmean((row["ppl_drift_high"] - row["ppl_drift_low"]) / 2 for row in own if row["ppl_drift_high"] is not None)
    margin = math.hypot(between, text)
    drift = Value(fmean(drifts), fmean(drifts) - margin, fmean(drifts) + margin)
    largest = max(abs(drift.low), abs(drift.high))
    smallest = 0.0 if drift.low < 0 < drift.high else min(abs(drift.low), abs(drift.high))
    against: Literal["below", "above", "undecided"] = "undecided"
    if largest < reference.low:
        against = "below"
    elif smallest > reference.high:
        against = "above"
    return VariantSpread(name, drift, spreads, against)
