"""The numerics of a law that is a product of powers: its estimate, and bootstrap intervals of its coefficients."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2

from pythia_quant.bench.statistics import BATCHES

Array = NDArray[np.float64]

_FARTHEST = 1e4
"""The ratio of an increase to the law from which on no fit is tried."""
_FLOOR = 1e-24
"""The least relative variance of a point, so that increases without an error have a weight."""
_CELLS = 24
"""The grid of each scatter has so many cells."""


@dataclass(frozen=True)
class Points:
    """What is fitted: ``increase = exp(design @ theta) · (1 + run's deviation + own deviation) + error``.

    Attributes:
        design: the logarithms of what the law depends on, beside a column of ones, float64 [points, coefficients].
        errors: the standard errors of the increases, nats per token, float64 [points].
        runs: 1 where a point is of a run, float64 [points, runs]; no columns if points are taken as independent.
    """

    design: Array
    errors: Array
    runs: Array
    outer: Array = field(init=False)
    by_run: Array = field(init=False)

    def __post_init__(self) -> None:
        points = len(self.design)
        object.__setattr__(self, "outer", (self.design[:, :, None] * self.design[:, None, :]).reshape(points, -1))
        object.__setattr__(self, "by_run", (self.runs[:, :, None] * self.design[:, None, :]).reshape(points, -1))

    @property
    def constant_in_runs(self) -> int:
        """The number of columns that have one value in each run; only differences between runs tell of them."""
        inside = [self.design[of_run > 0] for of_run in self.runs.T]
        return int((np.max([np.ptp(rows, axis=0) for rows in inside], axis=0) < 1e-9).sum())

    def normal_equations(self, relative: Array, variance: Array, of_runs: Array) -> tuple[Array, Array, Array]:
        """Return information, score, and weighted squares of relative residuals, for one or more sets.

        Args:
            relative: residuals over expected increases, float64 [sets, points].
            variance: their variances without that of the run, float64 [sets, points].
            of_runs: the variance of the runs' deviations, float64 [sets].
        """
        parameters = self.design.shape[1]
        weights = 1 / variance
        information = (weights @ self.outer).reshape(-1, parameters, parameters)
        score, squares = (weights * relative) @ self.design, (weights * relative**2).sum(axis=1)
        if self.runs.shape[1]:  # the inverse of the covariance in a run, by Sherman and Morrison
            ones, sums = weights @ self.runs, (weights * relative) @ self.runs
            slopes = (weights @ self.by_run).reshape(len(weights), -1, parameters)
            share = of_runs[:, None] / (1 + of_runs[:, None] * ones)
            weighted = share[:, :, None] * slopes
            information = information - np.swapaxes(weighted, 1, 2) @ slopes
            score = score - (sums[:, None, :] @ weighted)[:, 0]
            squares = squares - (share * sums**2).sum(axis=1)
        return information, score, squares


@dataclass(frozen=True)
class Scatter:
    """How likely each size of the deviations is: of single points, and of whole runs.

    Attributes:
        own: relative standard deviations of points, float64 [pairs].
        runs: relative standard deviations of runs, float64 [pairs].
        weights: the probability of each pair, float64 [pairs].
        log_likelihood: the largest logarithm of the likelihood.
    """

    own: Array
    runs: Array
    weights: Array
    log_likelihood: float

    @property
    def mean(self) -> tuple[float, float]:
        """The means of both standard deviations."""
        return float(self.weights @ self.own), float(self.weights @ self.runs)


def solve(
    points: Points, increases: Array, own: float, runs: float, start: Array, tolerance: float = 1e-11
) -> tuple[Array, NDArray[np.bool_]]:
    """Return the coefficients for each set of increases, and whether the iteration converged, for a known scatter.

    The least squares are of the increases, not of their logarithms: an increase may be within its error of zero, or
    negative. Its variance is that of its error and of the deviations from the law, which are in proportion to it.

    Args:
        points: what is the same for all sets.
        increases: nats per token, float64 [sets, points].
        own: the relative standard deviation of single points from the law.
        runs: the relative standard deviation of runs from the law.
        start: the coefficients to begin with, float64 [coefficients].
        tolerance: the change of the law, relative to its value, at which the iteration ends.
    """
    theta = np.tile(start, (len(increases), 1))
    moving = np.arange(len(increases))
    for _ in range(100):
        expected = np.exp(np.clip(theta[moving] @ points.design.T, -60.0, 60.0))
        variance = (points.errors / expected) ** 2 + own**2 + _FLOOR
        relative = increases[moving] / expected - 1
        information, score, _ = points.normal_equations(relative, variance, np.full(len(moving), runs**2))
        size = np.trace(information, axis1=1, axis2=2)[:, None, None]
        step = np.linalg.solve(information + 1e-13 * size * np.eye(len(start)), score[:, :, None])[:, :, 0]
        change = np.abs(step @ points.design.T).max(axis=1)
        theta[moving] += step / np.maximum(1.0, change)[:, None]
        moving = moving[change >= tolerance]
        if not len(moving):
            break
    return theta, ~np.isin(np.arange(len(increases)), moving)


def scatter_of(points: Points, increases: Array, theta: Array) -> Scatter:
    """Return the distribution of the scatter, given all residuals.

    It is the restricted likelihood with a flat prior of both standard deviations (Gelman, Bayesian Analysis 1, 2006),
    on a grid that ends where hardly a chance would leave such small residuals (Viechtbauer, Statistics in Medicine 26,
    2007). A single estimate is often zero with few points, and intervals from it are then too narrow.

    Args:
        points: the points.
        increases: nats per token, float64 [points].
        theta: the coefficients, float64 [coefficients].
    """
    count, parameters = points.design.shape
    expected = np.exp(points.design @ theta)
    relative, errors = increases / expected - 1, (points.errors / expected) ** 2 + _FLOOR
    own = _grid(relative**2, errors, count - parameters)
    runs = np.zeros(1)
    if points.runs.shape[1]:
        ones = (1 / errors) @ points.runs
        means = ((relative / errors) @ points.runs) / ones
        runs = _grid(means**2, 1 / ones, points.runs.shape[1] - points.constant_in_runs)
    pairs = np.array([(one, other) for one in own for other in runs])
    variance = errors[None, :] + pairs[:, :1] ** 2
    of_runs = pairs[:, 1] ** 2
    information, score, squares = points.normal_equations(np.tile(relative, (len(pairs), 1)), variance, of_runs)
    squares = squares - (score * np.linalg.solve(information, score[:, :, None])[:, :, 0]).sum(axis=1)
    determinant = np.log(variance).sum(axis=1) + np.log1p(of_runs[:, None] * ((1 / variance) @ points.runs)).sum(axis=1)
    likelihood = -0.5 * (determinant + squares + 2 * np.log(expected).sum() + count * np.log(2 * np.pi))
    restricted = likelihood - 0.5 * np.linalg.slogdet(information)[1]
    widths = np.outer(_widths(own), _widths(runs)).ravel()
    weights = widths * np.exp(restricted - restricted.max())
    return Scatter(pairs[:, 0], pairs[:, 1], weights / weights.sum(), float(likelihood.max()))


def _grid(squares: Array, variance: Array, freedom: int) -> Array:
    """Return standard deviations from 0 up to one that would leave such small residuals with a chance of 1 in 1000."""
    wanted = float(chi2.ppf(0.001, freedom))
    high = float(np.sqrt(squares.sum() / wanted)) + 1e-12
    if (squares / variance).sum() <= wanted:
        high = float(np.sqrt(np.median(variance)))
    else:
        high = float(brentq(lambda value: (squares / (variance + value**2)).sum() - wanted, 0.0, high))
    return (np.arange(_CELLS) + 0.5) ** 2 / _CELLS**2 * max(high, 1e-12)


def _widths(grid: Array) -> Array:
    return np.gradient(grid) if len(grid) > 1 else np.ones(1)


def fit(points: Points, increases: Array) -> tuple[Array, Scatter, bool]:
    """Return coefficients, the distribution of the scatter, and whether the iteration converged."""
    least = np.maximum(0.5 * points.errors, 1e-9 * np.abs(increases).max())
    raised = np.maximum(increases, least)  # what is below its error counts as half of it, with little weight
    weights = raised / np.hypot(points.errors, 0.3 * raised)
    theta = np.linalg.lstsq(weights[:, None] * points.design, weights * np.log(raised), rcond=None)[0]
    own = 0.1
    runs = 0.1 if points.runs.shape[1] else 0.0
    for _ in range(30):
        found, converged = solve(points, increases[None], own, runs, theta)
        theta = found[0]
        if _is_senseless(points, increases, theta):
            return theta, Scatter(np.zeros(1), np.zeros(1), np.ones(1), -np.inf), False
        scatter = scatter_of(points, increases, theta)
        before, (own, runs) = (own, runs), scatter.mean
        if abs(own - before[0]) + abs(runs - before[1]) < 1e-6 * (own + runs):
            break
    found, converged = solve(points, increases[None], own, runs, theta)
    return found[0], scatter, bool(converged[0])


def _is_senseless(points: Points, increases: Array, theta: Array) -> bool:
    """Say whether a law is so far below an increase that no scatter explains it: most increases are negative then."""
    with np.errstate(all="ignore"):
        relative = np.abs(increases) / np.exp(points.design @ theta)
    return not bool((relative < _FARTHEST).all())


def without_each_run(points: Points, increases: Array, theta: Array, scatter: Scatter) -> Array:
    """Return the coefficients of fits that each leave one run out, float64 [runs, coefficients].

    A row is NaN if the points that remain do not determine every coefficient.
    """
    fits = np.full((points.runs.shape[1], len(theta)), np.nan)
    for index, of_run in enumerate(points.runs.T):
        keep = of_run == 0
        rest = Points(points.design[keep], points.errors[keep], np.delete(points.runs[keep], index, axis=1))
        if np.linalg.matrix_rank(rest.design) == len(theta):
            fits[index] = solve(rest, increases[None, keep], *scatter.mean, theta)[0][0]
    return fits


def resample(points: Points, theta: Array, scatter: Scatter, draws: int, seed: int) -> Array:
    """Return the coefficients of fits to drawn increases, float64 [draws, coefficients]: a parametric bootstrap.

    Each draw takes a scatter from its distribution, then a deviation for every run, one for every point, and an error.
    The errors are Student's, because a standard error is itself an estimate, of :data:`BATCHES` parts of a text.
    """
    generator = np.random.default_rng(seed)
    count, runs = points.runs.shape
    chosen = generator.choice(len(scatter.weights), size=draws, p=scatter.weights)
    deviations = scatter.own[chosen, None] * generator.normal(size=(draws, count))
    if runs:
        deviations += (scatter.runs[chosen, None] * generator.normal(size=(draws, runs))) @ points.runs.T
    errors = points.errors * generator.standard_t(BATCHES - 1, size=(draws, count))
    drawn = np.exp(points.design @ theta) * (1 + deviations) + errors
    return solve(points, drawn, *scatter.mean, theta, 1e-6)[0]
