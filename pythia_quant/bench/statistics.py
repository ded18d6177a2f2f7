"""Estimates with their errors from per-window means: tokens are not independent, windows nearly are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, stdev

# Two-sided 95 % quantiles of Student's t for 1 to 28 degrees of freedom; above, the normal distribution's is used.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
)  # fmt: skip
_NORMAL = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and the number of windows behind it."""

    value: float
    error: float
    count: int

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval; Student's t below 30 windows."""
        return self.error * (_STUDENT[self.count - 2] if self.count < 30 else _NORMAL)


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of at least two window means with its standard error."""
    return Estimate(fmean(values), stdev(values) / math.sqrt(len(values)), len(values))


def paired(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """Return the mean difference of two measurements of the same windows; what they share cancels."""
    return estimate([value - other for value, other in zip(values, reference, strict=True)])


def perplexity(nll: Sequence[float]) -> Estimate:
    """Return exp of the mean negative log-likelihood, its error by the delta method."""
    mean = estimate(nll)
    value = math.exp(mean.value)
    return Estimate(value, value * mean.error, mean.count)


def spread(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return the 10th percentile, the median and the 90th percentile of raw samples."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return ordered[round(0.1 * last)], median(ordered), ordered[round(0.9 * last)]
