"""How often 95 % intervals hold a mean, and how wide they are: on a text of which every window was measured, and on
synthetic ones. Its series, `tests/data/windows-*.json`, are by `benchmarks/coverage/series.py`.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pythia_quant.bench.statistics import Estimate, mean_of_windows, perplexity
from pythia_quant.texts.windows import spread_windows

Series = NDArray[np.float64]
Measured = tuple[Series, Callable[[Estimate], Estimate]]
DRAWS, WINDOWS = 500, 565
COUNTS = [20, 40, 80, 120]
DATA = Path(__file__).parents[1] / "data"
MEASURED = [(text, variant) for text in ("demo", "pythia-14m") for variant in ("bnb-nf4", "gptq-int4")]
METRICS = ["kl", "top1", "perplexity", "drift"]


@pytest.fixture(scope="module", params=MEASURED, ids="-".join)
def drift(request: pytest.FixtureRequest) -> dict[str, Series]:
    text, variant = request.param
    content: dict[str, Any] = json.loads((DATA / f"windows-{text}.json").read_text())
    series = content["variants"][variant] | {"reference_nll": content["reference_nll"]}
    return {name: np.array(values) for name, values in series.items()}


@pytest.fixture(params=METRICS)
def measured(request: pytest.FixtureRequest, drift: dict[str, Series]) -> Measured:
    """Return a value of every window, and how a mean of it is shown; a perplexity's drift is a ratio."""
    if request.param in drift:
        return drift[request.param], lambda mean: mean
    return drift["nll"] - (drift["reference_nll"] if request.param == "drift" else 0.0), perplexity


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


def shifts(series: Series) -> list[Series]:
    """Return the text begun at `DRAWS` places, what comes before them moved to its end."""
    return [np.roll(series, -start) for start in np.linspace(0, len(series), DRAWS, endpoint=False, dtype=int)]


def stretches(series: Series) -> list[Series]:
    """Return `DRAWS` parts of the text, of half of it or more."""
    generator = np.random.default_rng(3)
    lengths = generator.integers(len(series) // 2, len(series), size=DRAWS, endpoint=True)
    starts = [int(generator.integers(0, len(series) - length, endpoint=True)) for length in lengths]
    return [series[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def sampled(text: Series, count: int) -> Estimate:
    return mean_of_windows(spread_windows(text, 1, count)[:, 0].tolist())


def coverage(found: Iterable[Estimate], means: Iterable[float]) -> float:
    return float(np.mean([abs(each.value - mean) <= each.margin for each, mean in zip(found, means, strict=True)]))


# Of the few windows that diverge most, twenty of a part of a text may have none: docs/protocols.md has what that costs.
@pytest.mark.parametrize(("draw", "counts"), [(shifts, COUNTS), (stretches, COUNTS[1:])])
def test_spread_windows_cover_what_was_measured_on_the_whole_text(
    measured: Measured, draw: Callable[[Series], list[Series]], counts: list[int]
) -> None:
    series, shown = measured
    texts = draw(series)
    means = [shown(mean_of_windows(each.tolist())).value for each in texts]
    found = {count: coverage([shown(sampled(each, count)) for each in texts], means) for count in counts}
    assert min(found.values()) >= 0.92, found


@pytest.mark.parametrize("count", COUNTS)
def test_intervals_are_not_much_wider_than_independent_windows_need(measured: Measured, count: int) -> None:
    series, _ = measured
    generator = np.random.default_rng(4)
    margins = [sampled(generator.permutation(series), count).margin for _ in range(100)]
    needed = 1.96 * series.std(ddof=1) * np.sqrt((1 - count / len(series)) / count)  # drawn without repetition
    assert np.mean(margins) / needed <= 1.5


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.7])
def test_spread_windows_cover_the_mean_of_a_correlated_text(correlation: float, count: int) -> None:
    texts = correlated(correlation, WINDOWS)
    found = [sampled(text, count) for text in texts]
    assert coverage(found, texts.mean(1)) >= 0.92
    if correlation == 0:
        errors = np.array([each.value for each in found]) - texts.mean(1)
        assert np.mean([each.margin for each in found]) <= 1.5 * 1.96 * errors.std()


@pytest.mark.parametrize("count", COUNTS)
def test_spread_windows_cover_a_text_of_documents(count: int) -> None:
    texts = of_documents(WINDOWS)
    assert coverage([sampled(text, count) for text in texts], texts.mean(1)) >= 0.92


@pytest.mark.parametrize("texts", [correlated(0.4, 120), correlated(0.7, WINDOWS), of_documents(WINDOWS)])
def test_all_windows_of_a_text_cover_the_mean_of_text_of_this_kind(texts: Series) -> None:
    assert coverage([mean_of_windows(text.tolist()) for text in texts], np.zeros(DRAWS)) >= 0.92
