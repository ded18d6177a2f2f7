"""Fit the laws of the loss that quantization costs to the points of a study, with intervals, and compare them.

The law of arXiv 2411.17691 is ``increase = k · D^beta / (N^alpha · P^gamma)``: D training tokens, N non-embedding
parameters, P bits. arXiv 2510.06213 finds the cause in the decay of the learning rate instead; we know of no formula
in it. Here it is the same law with ``1 / share`` in place of D, where share is the learning rate over its largest. This
form is flat while the rate is, whatever the tokens, and grows once it decays, which is what that paper reports. A power
of the logarithm of the share would be zero until the decay begins, and models at their largest rate do lose by
quantization.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.stats import t as student

from pythia_quant.core.errors import StudyError
from pythia_quant.sweep.bootstrap import Array, Points, fit, resample, without_each_run
from pythia_quant.sweep.points import Point

Progress = Literal["tokens", "decay"]
"""What stands for the progress of training: the tokens, or the decay of the learning rate."""

MORE_POINTS = 3
"""A law needs at least so many points more than it has parameters."""
RUNS = 6
"""From so many runs on, points of one run are taken as correlated."""
PUBLISHED = {"k": 0.017, "beta": 0.5251, "alpha": 0.2261, "gamma": 5.4967}
"""The law of arXiv 2411.17691 for GPTQ of the Pythia suite, its figure 6."""

_NAMES = {"tokens": "training tokens", "decay": "learning rates", "parameters": "sizes", "bits": "bit widths"}
_EXPONENTS = {"tokens": "beta", "decay": "beta", "parameters": "alpha", "bits": "gamma"}
_MORE = "measure more sizes, training steps and bit widths"


@dataclass(frozen=True)
class Parameter:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
        progress: what stands for the progress of training.
        k: the law's factor, for one token, one parameter and one bit.
        exponents: ``alpha`` of the parameters, ``beta`` of the progress, ``gamma`` of the bits. One that the points
            cannot tell is missing, and `notes` says so; k then holds its factor.
        points: the points.
        expected: the law's increase at each point, nats per token.
        residuals: each point's distance from the law in units of its standard deviation: its error and the scatter.
        scatter: the relative standard deviation of single points from the law, beyond their errors.
        run_scatter: that of whole runs; 0 if points were taken as independent.
        resampled: ``runs`` if the intervals take points of one run as correlated, ``points`` if as independent.
        without_run: the exponents of the fit without each run, by the run; empty if points were taken as independent.
        aicc: the corrected criterion of Akaike; the lower of two at the same points fits better.
        notes: sentences about what was not fitted, and about what the intervals leave out.
    """

    progress: Progress
    k: Parameter
    exponents: dict[str, Parameter]
    points: Sequence[Point]
    expected: list[float]
    residuals: list[float]
    scatter: float
    run_scatter: float
    resampled: Literal["runs", "points"]
    without_run: dict[str, dict[str, float]]
    aicc: float
    notes: list[str] = field(default_factory=list)

    def increase(self, progress: float, parameters: float, bits: float) -> float:
        """Return the law's loss increase, nats per token. `progress` is tokens, or the learning rate's share."""
        power = {name: one.value for name, one in self.exponents.items()}
        sign = 1 if self.progress == "tokens" else -1
        logarithm = sign * power.get("beta", 0.0) * math.log(progress) - power.get("alpha", 0.0) * math.log(parameters)
        return math.exp(math.log(self.k.value) + logarithm - power.get("gamma", 0.0) * math.log(bits))


@dataclass(frozen=True)
class Comparison:
    """Both laws at the same points.

    Attributes:
        tokens: the law of tokens.
        decay: the law of the decay of the learning rate.
        difference: how much lower the AICc of the better law is.
        better: the better law; None if the points do not decide.
        statement: what the points say, for people.
    """

    tokens: Fit
    decay: Fit
    difference: float
    better: Progress | None
    statement: str


def fit_law(points: Sequence[Point], progress: Progress = "tokens", *, draws: int = 999, seed: int = 0) -> Fit:
    """Fit a law by weighted least squares, with 95 % intervals of a parametric bootstrap.

    The variance of a point is that of its error and of a relative scatter, which is estimated. Each draw of the
    bootstrap takes a scatter that the residuals allow, so intervals of few points are wide. With at least :data:`RUNS`
    runs, whole runs scatter, too, and an interval holds that of the jackknife over runs, which allows for any
    correlation within a run.

    Args:
        points: the points; for ``decay``, only those with a share are used.
        progress: what stands for the progress of training.
        draws: how many increases are drawn for the intervals.
        seed: the seed of the draws.

    Raises:
        StudyError: there are too few points, or they cannot tell the parameters; the message says what is missing.
    """
    if progress == "decay":
        points = [point for point in points if point.share is not None]
    if not points:
        raise StudyError("there are no points to fit", hint=_MORE)
    names, design, center, notes = _design(points, progress)
    increases, errors = np.array([[point.increase, point.error] for point in points]).T
    _check(design, names, increases, errors)
    runs = sorted({point.run for point in points})
    correlated = RUNS <= len(runs) < len(points)
    of_run = np.array([[float(point.run == run) for run in runs if correlated] for point in points])
    fitted = Points(design, errors, of_run)
    theta, scatter, converged = fit(fitted, increases)
    if not converged:
        raise StudyError("the fit does not settle: the points follow no such law", hint=_MORE)
    contrasts = np.eye(len(theta))
    contrasts[0, 1:] = -center  # from the value at the mean logarithms to ln k
    values = contrasts @ theta
    drawn = resample(fitted, theta, scatter, draws, seed) @ contrasts.T
    low, high = 2 * values - np.quantile(drawn, [0.975, 0.025], axis=0, method="weibull")
    without = without_each_run(fitted, increases, theta, scatter) @ contrasts.T
    if correlated:
        low, high = _widened(values, low, high, without)
        needed = [run for run, row in zip(runs, without, strict=True) if np.isnan(row[0])]
        notes += [f"Without {run}, the points cannot tell every exponent." for run in needed]
    elif len(runs) < len(points):
        notes.append(
            f"The points are of {len(runs)} runs, too few to take those of one run as correlated: if runs differ for "
            "reasons that the law does not have, the intervals are too narrow."
        )
    expected = np.exp(design @ theta)
    own, of_runs = scatter.mean
    deviation = np.sqrt(errors**2 + (own**2 + of_runs**2) * expected**2)
    count = len(theta) + 1 + correlated
    exponents = [_EXPONENTS[name] for name in names]
    return Fit(
        progress, Parameter(*(_exp(one) for one in (values[0], low[0], high[0]))),
        {name: Parameter(float(values[i]), float(low[i]), float(high[i])) for i, name in enumerate(exponents, 1)},
        points, expected.tolist(), ((increases - expected) / deviation).tolist(), own, of_runs,
        "runs" if correlated else "points",
        {run: dict(zip(exponents, row[1:], strict=True)) for run, row in zip(runs, without.tolist(), strict=False)},
        2 * count - 2 * scatter.log_likelihood + 2 * count * (count + 1) / max(1, len(points) - count - 1), notes,
    )  # fmt: skip


def _design(points: Sequence[Point], progress: Progress) -> tuple[list[str], Array, Array, list[str]]:
    """Return what varies, its centred logarithms beside a column of ones, their centre, and notes on what does not."""
    values = {
        "tokens": [point.tokens for point in points],
        "decay": [1 / point.share for point in points if point.share is not None],
        "parameters": [1 / point.parameters for point in points],
        "bits": [1 / point.bits for point in points],
    }
    columns, notes = {}, []
    for name in (progress, "parameters", "bits"):
        logarithms = np.log(np.array(values[name], dtype=np.float64))
        if np.ptp(logarithms) > 1e-6:
            columns[name] = logarithms
        else:
            notes.append(f"All points have the same {_NAMES[name]}: {_EXPONENTS[name]} is not fitted.")
    by_bits: dict[float, set[str]] = {}
    for point in points:
        by_bits.setdefault(point.bits, set()).add(point.variant)
    shared = [
        f"{', '.join(sorted(variants))} ({bits:g} bits)" for bits, variants in by_bits.items() if len(variants) > 1
    ]
    if shared:
        notes.append(f"Variants with the same bits have the same law: {'; '.join(shared)}.")
    center = np.array([column.mean() for column in columns.values()])
    design = np.column_stack([np.ones(len(points)), *(column - column.mean() for column in columns.values())])
    return list(columns), design, center, notes


def _check(design: Array, names: Sequence[str], increases: Array, errors: Array) -> None:
    """Refuse points that cannot tell the parameters of a law."""
    count, parameters = design.shape
    if parameters == 1:
        raise StudyError("all points have the same size, progress and bits: there is no law to fit", hint=_MORE)
    if count < parameters + MORE_POINTS:
        least = parameters + MORE_POINTS
        what = f"there are {count} points, and a law of {parameters} parameters needs at least {least}"
        raise StudyError(what, hint=_MORE)
    if not (np.isfinite(increases).all() and np.isfinite(errors).all() and (errors >= 0).all()):
        raise StudyError("an increase or its error is not finite, or an error is negative", hint="leave that point out")
    _, singular, directions = np.linalg.svd(design / np.linalg.norm(design, axis=0), full_matrices=False)
    if singular[-1] < 1e-6:
        together = [_NAMES[name] for name, part in zip(names, directions[-1][1:], strict=True) if abs(part) > 0.1]
        raise StudyError(
            f"{' and '.join(together)} change together, so their exponents cannot be told apart",
            hint="measure points in which one changes and the others stay",
        )
    clear = int((increases > 2 * errors).sum())
    if clear < parameters:
        raise StudyError(
            f"only {clear} of {count} increases exceed twice their errors, and the law has {parameters} parameters",
            hint="measure with more windows, or fewer bits",
        )


def _widened(values: Array, low: Array, high: Array, without: Array) -> tuple[Array, Array]:
    """Return intervals at least as wide as the jackknife's over runs, with Student's t."""
    fits = without[~np.isnan(without[:, 0])]
    margin = np.sqrt((len(fits) - 1) / len(fits) * np.square(fits - values).sum(axis=0)) * student.ppf(
        0.975, len(fits) - 1
    )
    return np.minimum(low, values - margin), np.maximum(high, values + margin)


def _exp(logarithm: float) -> float:
    return math.exp(logarithm) if logarithm < 700 else math.inf


def compare(points: Sequence[Point], *, draws: int = 999, seed: int = 0) -> Comparison:
    """Fit both laws to the points that have a learning rate's share, and say which of them fits better.

    Differences of AICc below 4 are taken as undecided, and those above 10 as strong (Burnham and Anderson, 2002).

    Raises:
        StudyError: as :func:`fit_law`, or all points have the same progress.
    """
    both = [point for point in points if point.share is not None]
    if not both:
        raise StudyError("no point has a known learning rate after warm-up", hint="measure later steps of the suite")
    tokens, decay = (fit_law(both, progress, draws=draws, seed=seed) for progress in ("tokens", "decay"))
    if "beta" not in tokens.exponents or "beta" not in decay.exponents:
        raise StudyError("the points have one step or one learning rate: the laws are the same", hint=_MORE)
    difference = abs(tokens.aicc - decay.aicc)
    better: Progress = "tokens" if tokens.aicc < decay.aicc else "decay"
    law = {"tokens": "of training tokens", "decay": "of the learning rate's decay"}[better]
    by_tokens: dict[float, set[float | None]] = {}
    for point in both:
        by_tokens.setdefault(point.tokens, set()).add(round(point.share or 0.0, 6))
    statement = f"The {len(both)} points do not decide between the laws: their AICc differs by {difference:.1f}."
    if difference >= 4:
        prefer = "strongly prefer" if difference > 10 else "prefer"
        statement = f"The {len(both)} points {prefer} the law {law}: its AICc is {difference:.1f} lower."
    if all(len(shares) == 1 for shares in by_tokens.values()):
        statement += (
            " All runs have one schedule, in which the tokens decide about the learning rate: only the shape of the "
            "curve tells the laws apart, not which of them is the cause."
        )
    return Comparison(tokens, decay, difference, None if difference < 4 else better, statement)
