"""The law of what quantization costs: its estimate, how often its intervals hold the truth, and its refusals."""

import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from pythia_quant.core.errors import StudyError
from pythia_quant.sweep.fit import PUBLISHED, Fit, Progress, compare, fit_law
from pythia_quant.sweep.points import Point

SIZES = (18_915_328, 85_056_000, 302_311_424)
TOKENS = (2e9, 2e10, 1e11, 3e11)
BITS = (3.0, 4.0, 8.0)
DRAWS = 500
TRUE = PUBLISHED


def law(tokens: float, parameters: float, bits: float) -> float:
    return float(TRUE["k"] * tokens ** TRUE["beta"] / parameters ** TRUE["alpha"] / bits ** TRUE["gamma"])


def exact(
    sizes: Sequence[float] = SIZES, tokens: Sequence[float] = TOKENS, bits: Sequence[float] = BITS, error: float = 0.0
) -> list[Point]:
    """Return points on the law, a run for each size."""
    return [Point(law(d, n, p), error, d, n, p, None, f"{n:g}") for n in sizes for d in tokens for p in bits]


def noisy(points: Sequence[Point], scatter: float, seed: int, runs: float = 0.0) -> list[Point]:
    """Return points with errors, whose sizes are estimates of 8 batches, and with a log-normal scatter."""
    generator = np.random.default_rng(seed)
    of_run = {run: runs * generator.normal() for run in dict.fromkeys(point.run for point in points)}
    drawn = []
    for point in points:
        error = 2e-3 + 0.02 * point.increase
        factor = np.exp(scatter * generator.normal() - scatter**2 / 2) + of_run[point.run]
        increase = point.increase * factor + error * generator.normal()
        drawn.append(replace(point, increase=increase, error=error * np.sqrt(generator.chisquare(7) / 7)))
    return drawn


def values(fit: Fit) -> dict[str, float]:
    return {"k": fit.k.value} | {name: one.value for name, one in fit.exponents.items()}


@pytest.mark.parametrize("error", [0.0, 1e-3])
def test_without_noise_the_law_is_found_exactly(error: float) -> None:
    fit = fit_law(exact(error=error), draws=50)
    assert values(fit) == pytest.approx(TRUE, rel=1e-9)
    assert fit.expected == pytest.approx([point.increase for point in exact()], rel=1e-10)
    assert fit.increase(1e11, SIZES[0], 4) == pytest.approx(law(1e11, SIZES[0], 4), rel=1e-9)
    assert fit.resampled == "points"
    assert "3 runs, too few" in fit.notes[0]


def test_five_points_of_one_exponent_give_it_by_hand() -> None:
    # Increases that double with each doubling of the tokens, and one size and width: beta is 1, k is 1e-11.
    points = [Point(1e-11 * d, 1e-4, d, 1e8, 4.0, None, str(d)) for d in (1e10, 2e10, 4e10, 8e10, 16e10)]
    fit = fit_law(points, draws=50)
    assert values(fit) == pytest.approx({"k": 1e-11, "beta": 1.0}, rel=1e-9)
    assert [note.split(":")[1] for note in fit.notes] == [" alpha is not fitted.", " gamma is not fitted."]


def test_two_groups_give_the_exponent_of_their_weighted_means_by_hand() -> None:
    # With one exponent and two widths, the law goes through both means, which are weighted equally: 0.12 and 0.02.
    increases = {3.0: (0.11, 0.12, 0.13), 6.0: (0.019, 0.02, 0.021)}
    points = [Point(y, 1e-3, 1e10, 1e8, bits, None, f"{y}") for bits, group in increases.items() for y in group]
    fit = fit_law(points, draws=50)
    assert fit.exponents["gamma"].value == pytest.approx(np.log2(0.12 / 0.02), rel=1e-9)
    assert fit.increase(1e10, 1e8, 3) == pytest.approx(0.12, rel=1e-9)
    assert sum(fit.residuals) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("scatter", [0.0, 0.3])
def test_the_estimate_is_that_of_scipy_with_the_same_weights(scatter: float) -> None:
    points = noisy(exact(), scatter, 1)
    fit = fit_law(points, draws=50)
    assert min(point.increase for point in points) < 0
    deviations = [(p.increase - e) / r for p, e, r in zip(points, fit.expected, fit.residuals, strict=True)]
    design = np.log([[1 / p.tokens, p.parameters, p.bits] for p in points]).T
    middle = design.mean(axis=1)

    def model(x: np.ndarray, level: float, beta: float, alpha: float, gamma: float) -> np.ndarray:
        expected: np.ndarray = np.exp(level - np.array([beta, alpha, gamma]) @ (x - middle[:, None]))
        return expected

    increases = np.array([point.increase for point in points])
    found, _ = curve_fit(model, design, increases, p0=[-4, 0.4, 0.1, 4], sigma=deviations, ftol=1e-15, xtol=1e-15)
    ours = [fit.exponents[name].value for name in ("beta", "alpha", "gamma")]
    assert list(found[1:]) == pytest.approx(ours, rel=1e-5)


@pytest.mark.parametrize("scatter", [0.0, pytest.param(0.1, marks=pytest.mark.slow), 0.3])
def test_intervals_of_95_percent_hold_the_truth(scatter: float) -> None:
    assert_covered(exact(), scatter, 0.0, DRAWS)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [0.0, 0.2])
def test_intervals_hold_the_truth_when_runs_deviate_as_a_whole(runs: float) -> None:
    sizes = tuple(4e6 * 3.0**power for power in range(6))
    assert_covered(exact(sizes, TOKENS[::2], BITS[:2]), 0.1, runs, DRAWS)


def assert_covered(points: Sequence[Point], scatter: float, runs: float, draws: int) -> None:
    held = dict.fromkeys(TRUE, 0)
    for seed in range(1000, 1000 + draws):
        fit = fit_law(noisy(points, scatter, seed, runs), draws=399)
        for name, one in {"k": fit.k, **fit.exponents}.items():
            held[name] += one.low <= TRUE[name] <= one.high
    assert all(count >= 0.93 * draws for count in held.values()), held


@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_a_factor_of_all_increases_is_a_factor_of_k(factor: float, seed: int) -> None:
    points = noisy(exact(), 0.2, seed)
    scaled = [replace(point, increase=factor * point.increase, error=factor * point.error) for point in points]
    before, after = fit_law(points, draws=50), fit_law(scaled, draws=50)
    assert values(after) == pytest.approx({**values(before), "k": factor * before.k.value}, rel=1e-6)
    assert after.exponents["alpha"].low == pytest.approx(before.exponents["alpha"].low, rel=1e-4, abs=1e-6)


@given(seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_the_order_of_points_does_not_matter(seed: int) -> None:
    points = noisy(exact(), 0.2, seed)
    mixed = [points[i] for i in np.random.default_rng(seed + 1).permutation(len(points))]
    assert values(fit_law(mixed, draws=10)) == pytest.approx(values(fit_law(points, draws=10)), rel=1e-6)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "no points"),
        (exact()[:2], "2 points"),
        (exact(SIZES[:2], TOKENS[:1], BITS)[:5], "needs at least 6"),
        ([exact()[0]] * 9, "all points have the same"),
        ([replace(p, tokens=20 * p.parameters) for p in exact()], "training tokens and sizes change together"),
        ([replace(p, increase=1e-4, error=1e-3) for p in exact()], "only 0 of 36 increases exceed twice"),
        ([replace(p, error=float("nan")) for p in exact()], "not finite"),
    ],
)
def test_points_that_cannot_tell_a_law_are_refused(points: list[Point], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        fit_law(points, draws=10)


def test_a_run_that_the_law_depends_on_is_named() -> None:
    points = [replace(p, run=f"run {i % 6}") for i, p in enumerate(exact(SIZES[:1]))]
    alone = [replace(p, run="large") for p in exact(SIZES[1:2])]
    fit = fit_law(noisy(points + alone, 0.1, 1), draws=50)
    assert fit.resampled == "runs"
    assert "Without large, the points cannot tell every exponent." in fit.notes
    assert len(fit.without_run) == 7
    assert fit.without_run["run 0"]["gamma"] == pytest.approx(fit.exponents["gamma"].value, abs=1.0)


def decayed(truth: Progress, scatter: float = 0.1) -> list[Point]:
    """Return points of two schedules, in which the learning rate begins to decay at other tokens."""
    points = []
    for start in (1e9, 1e11):
        for p in exact(bits=BITS[:2]):
            share = min(1.0, (start / p.tokens) ** 0.4)
            increase = p.increase if truth == "tokens" else law(1e11, p.parameters, p.bits) / share**1.5
            points.append(replace(p, increase=increase, share=share, run=f"{p.run} {start:g}"))
    return noisy(points, scatter, 3)


@pytest.mark.parametrize("truth", ["tokens", "decay"])
def test_the_law_that_made_the_points_is_preferred(truth: Progress) -> None:
    comparison = compare(decayed(truth), draws=100)
    assert comparison.better == truth
    assert comparison.difference > 10
    assert "strongly prefer" in comparison.statement
    assert "one schedule" not in comparison.statement
    beta = getattr(comparison, truth).exponents["beta"]
    assert beta.low <= {"tokens": TRUE["beta"], "decay": 1.5}[truth] <= beta.high


def test_laws_that_fit_equally_well_are_not_told_apart() -> None:
    points = [replace(p, share=(2e9 / p.tokens) ** 0.4) for p in exact()]
    comparison = compare(noisy(points, 0.1, 1), draws=50)
    assert comparison.better is None
    assert "do not decide" in comparison.statement
    assert "one schedule" in comparison.statement


def test_laws_are_only_compared_where_both_have_a_progress() -> None:
    with pytest.raises(StudyError, match="no point has a known learning rate"):
        compare(exact())
    with pytest.raises(StudyError, match="the laws are the same"):
        compare([replace(p, share=0.5) for p in exact(error=1e-3)], draws=10)


@pytest.mark.parametrize("seed", range(12))
def test_points_without_any_law_are_fitted_or_refused(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = 10.0 ** random.uniform(-6, 1)
    points = [
        Point(
            float(random.normal() * size), float(abs(random.normal()) * size * 10.0 ** random.uniform(-3, 1)),
            float(10 ** random.uniform(0, 11)), float(10 ** random.integers(4, 9)), float(random.integers(2, 9)),
            None, f"run {random.integers(9)}",
        )
        for _ in range(int(random.integers(5, 40)))
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = None
        with suppress(StudyError):
            fit = fit_law(points, draws=50)
    assert fit is None or all(math.isfinite(value) for value in fit.expected)
