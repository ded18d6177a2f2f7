import numpy as np
import pytest
import torch

from pythia_quant.bench.drift import Tally, TokenDrift, by_confidence, histogram, quantile
from pythia_quant.records.results import CONFIDENCES

GENERATOR = np.random.default_rng(0)
KL = np.exp(GENERATOR.normal(-8, 2, (40, 300)) + GENERATOR.normal(0, 0.5, (40, 1)))


def test_windows_are_means_and_quantiles_are_over_all_tokens() -> None:
    tally, confidence = Tally(), torch.rand(40, 300, generator=torch.Generator().manual_seed(0))
    for window in torch.from_numpy(KL).float():
        halves = [
            TokenDrift(nll=half + 3, kl=half, top1=(half < 1e-3).float(), top5=half * 0 + 0.5)
            for half in window.split(150)
        ]
        tally.add(halves)
    drift = tally.drift(confidence)
    np.testing.assert_allclose(drift.kl, KL.mean(1), rtol=1e-5)
    np.testing.assert_allclose(drift.nll, KL.mean(1) + 3, rtol=1e-5)
    np.testing.assert_allclose(drift.top1, (KL < 1e-3).mean(1), rtol=1e-5)
    assert drift.top5 == [0.5] * 40
    assert [q.share for q in drift.kl_quantiles] == [0.5, 0.9, 0.99]
    np.testing.assert_allclose([q.value for q in drift.kl_quantiles], np.quantile(KL, [0.5, 0.9, 0.99]), rtol=1e-4)
    assert sum(drift.kl_histogram) == KL.size == sum(part.tokens for part in drift.by_confidence)


def test_one_value_that_is_not_finite_leaves_no_numbers_but_its_count() -> None:
    tally = Tally()
    for _ in range(2):
        values = torch.tensor([0.1, float("nan"), float("inf")])
        tally.add([TokenDrift(nll=values, kl=values, top1=values, top5=values)])
    drift = tally.drift(torch.ones(2, 3))
    assert (drift.non_finite, drift.nll, drift.kl, drift.kl_quantiles) == (4, [], [], [])


def test_the_interval_of_a_quantile_covers_it_about_as_often_as_it_says() -> None:
    truth = float(np.quantile(np.exp(GENERATOR.normal(-8, 2, 400_000) + GENERATOR.normal(0, 0.5, 400_000)), 0.9))
    hits = 0
    for _ in range(200):
        drawn = np.exp(GENERATOR.normal(-8, 2, (40, 50)) + GENERATOR.normal(0, 0.5, (40, 1)))
        found = quantile(drawn, 0.9)
        assert found.low <= found.value <= found.high
        hits += found.low <= truth <= found.high
    assert 176 <= hits <= 200  # 95 % of 200, give or take four standard deviations


def test_the_histogram_counts_decades_in_tenths() -> None:
    counts = histogram(
        np.array([[0.0, 1e-13, 1.01e-12, 1.1e-3, 1.2e-3, 1.3e-3], [99.0, 1e5, 1.01e-4, 1.01, 0.99, 2.1]])
    )
    assert len(counts) == 140
    assert {place: count for place, count in enumerate(counts) if count} == {
        0: 3, 80: 1, 90: 2, 91: 1, 119: 1, 120: 1, 123: 1, 139: 2,
    }  # fmt: skip


def test_tokens_are_split_by_the_references_confidence() -> None:
    confidence = GENERATOR.uniform(0, 1, KL.shape)
    confidence[0, 0] = 1.0
    parts = by_confidence(KL, (KL < 1e-3).astype(float), confidence)
    assert [part.low for part in parts] == list(CONFIDENCES[:-1])
    assert sum(part.tokens for part in parts) == KL.size
    inside = (confidence >= 0.5) & (confidence < 0.75)
    assert parts[3].kl == pytest.approx(KL[inside].mean())
    assert parts[3].top1 == pytest.approx((KL < 1e-3)[inside].mean())
    # With equally many tokens in each window, the error is that of eight batches' means.
    (whole,) = by_confidence(KL, KL, np.full(KL.shape, 0.95))
    means = KL.reshape(8, -1).mean(1)
    assert whole.kl_error == pytest.approx(means.std(ddof=1) / np.sqrt(8))
