"""Means with standard errors: of independent samples, and of the windows of a text, whose neighbours are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, stdev

import numpy as np

# Two-sided 95 % quantiles of Student's t for 1 to 28 degrees of freedom; above, the normal distribution's is used.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
)  # fmt: skip
_NORMAL = NormalDist().inv_cdf(0.975)

BATCHES = 8
"""The windows of a text are summed up in so many batches of neighbours.

Fewer batches are longer, and a batch has to be longer than a document. But fewer batches widen the interval, below ten
of them by much (Schmeiser, Operations Research 30, 1982). How often the interval of 8 batches holds the mean, and how
wide it is, on the demo's text and on synthetic ones, is in docs/protocols.md."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; `count` is the number of independent parts that the error was computed from."""

    value: float
    error: float
    count: int

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval, by Student's t below 30 parts."""
        return self.error * (_STUDENT[self.count - 2] if self.count < 30 else _NORMAL)


def mean_of_samples(values: Sequence[float]) -> Estimate:
    """Return the mean of at least two independent samples with its standard error."""
    return Estimate(fmean(values), stdev(values) / math.sqrt(len(values)), len(values))


def mean_of_windows(sums: Sequence[float], counts: Sequence[float] | None = None) -> Estimate:
    """Return the mean over the windows of a text, with its error as an estimate for text of this kind.

    Neighbouring windows are alike, so the error comes from the scatter of :data:`BATCHES` batches of neighbours, which
    have nearly the same length. If there are fewer windows, each is a batch. The error is that of a ratio of sums over
    clusters (Cochran, Sampling Techniques, 6.3); for batches of the same length, it is the batch-means error.

    Args:
        sums: a value for each of at least two windows, in the order of the text. If windows have different weights,
            the value is a sum over what is counted in the window.
        counts: the number of things that are counted in each window; by default, all windows have the same weight.
    """
    totals = np.asarray(sums, dtype=np.float64)
    shares = np.ones_like(totals) if counts is None else np.asarray(counts, dtype=np.float64)
    mean = float(totals.sum() / shares.sum())
    batches = min(BATCHES, len(totals))
    starts = np.arange(batches) * len(totals) // batches
    scatter = float(np.square(np.add.reduceat(totals - mean * shares, starts)).sum())
    return Estimate(mean, math.sqrt(batches / (batches - 1) * scatter) / float(shares.sum()), batches)


def differences(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return the difference of each sample from its pair. What affects both alike cancels."""
    return [value - other for value, other in zip(values, reference, strict=True)]


def perplexity(nll: Estimate) -> Estimate:
    """Return exp of a mean negative log-likelihood, with its error by the delta method.

    The value is infinite if it exceeds the range of a float.
    """
    try:
        value = math.exp(nll.value)
    except OverflowError:
        return Estimate(math.inf, 0.0, nll.count)
    return Estimate(value, value * nll.error, nll.count)


def spread(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return the 10th percentile, the median and the 90th percentile of the samples."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return ordered[round(0.1 * last)], median(ordered), ordered[round(0.9 * last)]
