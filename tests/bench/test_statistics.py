import math
import random
from statistics import NormalDist

import pytest
import scipy.stats

from pythia_quant.bench.statistics import Estimate, estimate, paired, perplexity, spread


@pytest.mark.parametrize("count", [2, 3, 10, 29])
def test_the_interval_is_students_below_30_windows(count: int) -> None:
    expected = scipy.stats.t.ppf(0.975, count - 1)
    assert Estimate(0.0, 1.0, count).margin == pytest.approx(expected, abs=6e-4)


def test_the_interval_is_normal_from_30_windows() -> None:
    assert Estimate(0.0, 1.0, 30).margin == NormalDist().inv_cdf(0.975)


def test_the_error_is_that_of_the_mean() -> None:
    values = [1.0, 2.0, 4.0, 7.0]
    result = estimate(values)
    assert result.value == 3.5
    assert result.error == pytest.approx(scipy.stats.sem(values))


def test_pairing_removes_what_windows_share() -> None:
    generator = random.Random(0)
    hard = [generator.gauss(3, 1) for _ in range(50)]
    worse = [value + 0.01 for value in hard]
    assert paired(worse, hard).value == pytest.approx(0.01)
    assert paired(worse, hard).error < 1e-12
    assert estimate(worse).error > 0.1


def test_perplexity_is_exp_of_the_mean_with_its_error() -> None:
    uniform = perplexity([math.log(4096)] * 5)
    assert uniform.value == pytest.approx(4096)
    assert uniform.error == pytest.approx(0, abs=1e-9)
    two = perplexity([1.0, 1.2])
    assert two.error == pytest.approx(math.exp(1.1) * 0.1)


def test_spread_gives_percentiles_and_median() -> None:
    assert spread([5, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]) == (2, 6, 10)
