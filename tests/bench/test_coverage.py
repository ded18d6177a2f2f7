"""How often 95 % intervals hold a mean, and how wide they are, over 500 draws of correlated series."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pythia_quant.bench.statistics import Estimate, of_windows
from pythia_quant.corpus import spread_windows

Series = NDArray[np.float64]
DRAWS, WINDOWS = 500, 565


def correlated(correlation: float, windows: int) -> Series:
    """Return `DRAWS` series of variance 1 in which each window resembles the one before it."""
    generator = np.random.default_rng(1)
    series = generator.normal(size=(DRAWS, windows))
    for window in range(1, windows):
        series[:, window] *= np.sqrt(1 - correlation**2)
        series[:, window] += correlation * series[:, window - 1]
    return series


def of_documents(windows: int) -> Series:
    """Return series in which half of the variance is between documents, of ten windows on average."""
    generator = np.random.default_rng(2)
    document: NDArray[np.int64] = np.cumsum(generator.random((DRAWS, windows)) < 0.1, axis=1, dtype=np.int64)
    shared = np.take_along_axis(generator.normal(size=(DRAWS, windows + 1)), document, axis=1)
    mixed: Series = np.sqrt(0.5) * (shared + generator.normal(size=(DRAWS, windows)))
    return mixed


def sampled(text: Series, count: int) -> Estimate:
    return of_windows(spread_windows(text, 1, count)[:, 0].tolist())


def coverage(found: list[Estimate], means: Series) -> float:
    return float(np.mean([abs(each.value - mean) <= each.margin for each, mean in zip(found, means, strict=True)]))


@pytest.mark.parametrize("count", [20, 40, 80, 120])
@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.7])
def test_spread_windows_cover_the_mean_of_the_whole_text(correlation: float, count: int) -> None:
    texts = correlated(correlation, WINDOWS)
    found = [sampled(text, count) for text in texts]
    assert coverage(found, texts.mean(1)) >= 0.92
    if correlation == 0:
        errors = np.array([each.value for each in found]) - texts.mean(1)
        assert np.mean([each.margin for each in found]) <= 1.5 * 1.96 * errors.std()


@pytest.mark.parametrize("count", [20, 40, 80, 120])
def test_spread_windows_cover_a_text_of_documents(count: int) -> None:
    texts = of_documents(WINDOWS)
    assert coverage([sampled(text, count) for text in texts], texts.mean(1)) >= 0.92


@pytest.mark.parametrize("texts", [correlated(0.4, 120), correlated(0.7, WINDOWS), of_documents(WINDOWS)])
def test_all_windows_of_a_text_cover_the_mean_of_text_of_this_kind(texts: Series) -> None:
    assert coverage([of_windows(text.tolist()) for text in texts], np.zeros(DRAWS)) >= 0.92
