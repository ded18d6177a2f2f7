"""Tokens are chosen among those, and as often, as transformers' own filters and softmax say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TopKLogitsWarper, TopPLogitsWarper

from pythia_quant.artifacts.pieces import Wish
from pythia_quant.core.errors import ArgumentError
from pythia_quant.runtimes.sampling import Sampler, Sampling, log_probabilities, most_likely

LOGITS = np.random.default_rng(0).normal(0, 2, 40).astype(np.float32)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (8, 0.5), (1, 0.9), (100, 0.01)])
def test_tokens_come_as_often_as_by_transformers_filters(top_k: int, top_p: float) -> None:
    scores = torch.tensor(LOGITS)[None] / 1.5
    warpers: list[Callable[..., torch.Tensor]] = [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    for warper in warpers:
        scores = warper(None, scores)
    expected = scores.softmax(-1)[0].double().numpy()
    sampler = Sampler(Sampling(1.5, top_k, top_p, seed=1))
    drawn = np.bincount([sampler.choose(LOGITS) for _ in range(4000)], minlength=40)
    assert (drawn[expected == 0] == 0).all()
    seen = expected > 0
    squares = ((drawn[seen] - 4000 * expected[seen]) ** 2 / (4000 * expected[seen])).sum()
    freedom = seen.sum() - 1
    assert squares <= freedom + 5 * np.sqrt(2 * freedom) + 1e-9, "chi-square, five sigmas"


def test_the_most_likely_token_is_taken_without_temperature_and_among_one() -> None:
    tied = np.array([0, 3, 3, 1], np.float32)
    for sampling in (Sampling(), Sampling(top_k=3, top_p=0.2), Sampling(2.0, top_k=1), Sampling(2.0, top_p=1e-9)):
        assert {Sampler(sampling).choose(tied) for _ in range(5)} == {1}


def test_the_least_temperature_takes_the_most_likely_token() -> None:
    for sampling in (Sampling(5e-324), Sampling(1e-308, top_k=4), Sampling(5e-324, top_p=0.9)):
        assert {Sampler(sampling).choose(LOGITS) for _ in range(5)} == {int(LOGITS.argmax())}


def test_a_seed_gives_the_same_tokens_again() -> None:
    one, again, other = (Sampler(Sampling(1.0, seed=seed)) for seed in (7, 7, 8))
    drawn = [[sampler.choose(LOGITS) for _ in range(20)] for sampler in (one, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=9),
    st.floats(5e-324, 1000),
    st.integers(0, 9),
)
def test_extreme_logits_give_a_token(logits: list[float], temperature: float, seed: int) -> None:
    values = np.array(logits, np.float32)
    token = Sampler(Sampling(temperature, top_k=3, top_p=0.9, seed=seed)).choose(values)
    assert values[token] in np.sort(values)[-3:]


def test_log_probabilities_are_those_of_torch() -> None:
    expected = torch.tensor(LOGITS).double().log_softmax(-1).numpy()
    np.testing.assert_allclose(log_probabilities(LOGITS), expected, rtol=1e-12)
    assert most_likely(expected, 5) == torch.tensor(expected).topk(5).indices.tolist()
    assert most_likely(np.zeros(4), 2) == [0, 1]
    assert most_likely(expected, 0) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1.0}, "temperature: is -1.0; it must be 0 to 1000"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k: is -1"),
        ({"top_p": 0.0}, "top_p: is 0.0; it must be above 0"),
        ({"seed": 2**64}, "seed"),
        ({"seed": None}, "seed: is None; it must be a whole number"),
        ({"temperature": "1"}, "temperature: is '1'"),
        ({"top_k": 1.5}, "top_k: is 1.5; it must be a whole number"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Sampling(**arguments)


def test_what_is_no_count_and_no_stop_string_is_refused() -> None:
    for count in (-1, 2.0, "3"):
        with pytest.raises(ArgumentError, match=f"max_new_tokens: is {count!r}"):
            Wish(count)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="stop: holds 5; give a text"):
        Wish(1, stops=("a", 5))  # type: ignore[arg-type]
