import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pythia_quant.bench.drift import TokenDrift, compare, most_likely, summarize

GENERATOR = torch.Generator().manual_seed(0)
TARGETS = torch.randint(1280, (40,), generator=GENERATOR)
P = 2 * torch.randn(40, 1280, generator=GENERATOR)


def measured(logits: Tensor, reference: Tensor = P) -> TokenDrift:
    return compare(reference, summarize(reference), logits, TARGETS)


@pytest.mark.parametrize("distance", [1e-4, 3e-3, 0.1, 3.0, 60.0])
def test_it_equals_a_plain_computation_in_numpy(distance: float) -> None:
    other = P + distance * torch.randn(P.shape, generator=GENERATOR)
    p, q = (x.double().numpy() for x in (P, other))
    p, q = (x - x.max(-1, keepdims=True) for x in (p, q))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    kl = (np.exp(p) * (p - q)).sum(-1)
    found = measured(other)
    np.testing.assert_allclose(found.kl.numpy(), kl, rtol=1e-5, atol=2e-9 if distance < 1 else 1e-6)
    np.testing.assert_allclose(found.nll.numpy(), -q[np.arange(40), TARGETS.numpy()], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.top1.numpy(), p.argmax(-1) == q.argmax(-1))
    five = [np.mean(b[a.argsort()[-5:]] >= np.sort(b)[-5]) for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(found.top5.numpy(), five)


@settings(max_examples=30, deadline=None)
@given(shift=st.floats(-60, 60), noise=st.sampled_from([0.0, 1e-3, 1e-1]))
def test_a_constant_added_to_all_logits_changes_nothing(shift: float, noise: float) -> None:
    other = P + noise * torch.randn(P.shape, generator=torch.Generator().manual_seed(1))
    plain, shifted = measured(other), measured(other + shift)
    torch.testing.assert_close(shifted.kl, plain.kl, rtol=1e-3, atol=5e-6)
    torch.testing.assert_close(shifted.nll, plain.nll, rtol=0, atol=5e-5)


def test_a_model_does_not_drift_from_itself_and_a_uniform_one_has_its_vocabulary_as_perplexity() -> None:
    same = measured(P.clone())
    assert same.kl.tolist() == [0.0] * 40
    assert (same.top1.tolist(), same.top5.tolist()) == ([1.0] * 40, [1.0] * 40)
    uniform = measured(torch.zeros_like(P))
    np.testing.assert_allclose(uniform.nll.exp().numpy(), 1280, rtol=1e-5)


def test_tokens_that_share_the_fifth_place_all_have_it() -> None:
    coarse = P.round()  # as bf16 makes them, with dozens of equal logits
    found = measured(coarse)
    for row, (logits, reference) in enumerate(zip(coarse, P, strict=True)):
        inside = [int((logits > logits[token]).sum()) < 5 for token in reference.topk(5).indices]
        assert float(found.top5[row]) == pytest.approx(sum(inside) / 5)


def test_a_divergence_is_not_negative() -> None:
    for distance in (1e-6, 1e-5, 1e-3, 1.0):
        found = measured(P + distance * torch.randn(P.shape, generator=GENERATOR))
        assert float(found.kl.min()) > -1e-9


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_positions_that_are_not_finite_are_told_from_those_far_away(value: float) -> None:
    broken = P.clone()
    broken[3, 7] = value
    broken[5, 9] += 500.0  # finite, and exp of it is not
    found = measured(broken)
    assert [index for index, kl in enumerate(found.kl) if not math.isfinite(kl)] == [3]
    assert float(found.kl[5]) > 100


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([17, 64, 272, 640, 1280]), st.integers(1, 40))
def test_the_five_most_likely_are_found_the_lowest_of_equal_ones_first(seed: int, vocabulary: int, levels: int) -> None:
    logits = torch.randint(levels, (6, vocabulary), generator=torch.Generator().manual_seed(seed)).float()
    found = most_likely(logits)
    assert found[:, 0].tolist() == logits.argmax(-1).tolist()
    assert all(len(set(row)) == 5 for row in found.tolist())
    assert torch.equal(logits.gather(1, found).sort(descending=True).values, logits.topk(5).values)
