import math
import random
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats

from pythia_quant.bench.statistics import Estimate, differences, mean_of_samples, mean_of_windows, perplexity, spread


@pytest.mark.parametrize("count", [2, 3, 10, 29])
def test_the_interval_is_students_below_30_windows(count: int) -> None:
    expected = scipy.stats.t.ppf(0.975, count - 1)
    assert Estimate(0.0, 1.0, count).margin == pytest.approx(expected, abs=6e-4)


def test_the_interval_is_normal_from_30_windows() -> None:
    assert Estimate(0.0, 1.0, 30).margin == NormalDist().inv_cdf(0.975)


def test_the_error_is_that_of_the_mean() -> None:
    values = [1.0, 2.0, 4.0, 7.0]
    result = mean_of_samples(values)
    assert result.value == 3.5
    assert result.error == pytest.approx(scipy.stats.sem(values))


def test_pairing_removes_what_windows_share() -> None:
    generator = random.Random(0)
    hard = [generator.gauss(3, 1) for _ in range(50)]
    worse = [value + 0.01 for value in hard]
    found = mean_of_windows(differences(worse, hard))
    assert found.value == pytest.approx(0.01)
    assert found.error < 1e-12
    assert mean_of_windows(worse).error > 0.1


def test_perplexity_is_exp_of_the_mean_with_its_error() -> None:
    uniform = perplexity(mean_of_samples([math.log(4096)] * 5))
    assert uniform.value == pytest.approx(4096)
    assert uniform.error == pytest.approx(0, abs=1e-9)
    two = perplexity(mean_of_samples([1.0, 1.2]))
    assert two.error == pytest.approx(math.exp(1.1) * 0.1)


def test_spread_gives_percentiles_and_median() -> None:
    assert spread([5, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]) == (2, 6, 10)


def test_a_perplexity_beyond_a_floats_range_is_infinite() -> None:
    assert perplexity(mean_of_samples([800.0, 900.0])) == Estimate(math.inf, 0.0, 2)


def test_eight_batches_of_neighbours_give_the_error_of_a_mean_over_windows() -> None:
    values = np.random.default_rng(0).normal(size=120)
    found = mean_of_windows(values.tolist())
    assert found.count == 8
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(scipy.stats.sem(values.reshape(8, 15).mean(1)))


def test_fewer_windows_than_batches_are_batches_themselves() -> None:
    found, expected = mean_of_windows([1.0, 2.0, 4.0, 7.0]), mean_of_samples([1.0, 2.0, 4.0, 7.0])
    assert (found.value, found.count) == (expected.value, expected.count)
    assert found.error == pytest.approx(expected.error)
