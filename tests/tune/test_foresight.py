"""Factors of classes are learnt from known divergences, and the choice with them is that of brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_quant.tune.choices import Option
from pythia_quant.tune.factors import CLASSES, Known, class_of, fit, sums_of
from pythia_quant.tune.foresight import Foresight
from pythia_quant.tune.knapsack import Item, total

KEYS = ("embeddings", "layers.0.attention.dense", "layers.1.attention.dense", "head")
OPTIONS: tuple[Option, ...] = ("int4/32", "int8/64", "fp32")


def items_of(seed: int) -> dict[str, dict[Option, Item]]:
    random = np.random.default_rng(seed)
    costs = {"int4/32": 5.0, "int8/64": 8.5, "fp32": 32.0}
    share = {"int4/32": 1.0, "int8/64": 0.02, "fp32": 0.0}
    return {
        key: {option: Item(costs[option] * (1 + row % 2), scale * share[option]) for option in OPTIONS}
        for row, (key, scale) in enumerate(zip(KEYS, random.uniform(1e-3, 2e-2, len(KEYS)), strict=True))
    }


def every(items: dict[str, dict[Option, Item]]) -> list[dict[str, Option]]:
    return [dict(zip(items, options, strict=True)) for options in product(*items.values())]


def true_divergence(
    items: dict[str, dict[Option, Item]], factors: dict[str, float], choices: dict[str, Option]
) -> float:
    return sum(factors[class_of(key)] * items[key][option].load for key, option in choices.items())


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 1000),
    st.tuples(st.floats(0.4, 1.2), st.floats(0.7, 1.5), st.floats(0.7, 1.5)),
    st.floats(0.05, 1.0),
)
def test_what_adds_up_within_classes_is_chosen_as_by_brute_force(
    seed: int, values: tuple[float, float, float], share: float
) -> None:
    items, factors = items_of(seed), dict(zip(CLASSES, values, strict=True))
    foresight = Foresight(items, None)
    for choices in every(items):
        if sum(option == "int4/32" for option in choices.values()) == 1:
            foresight.observe(choices, true_divergence(items, factors, choices))
    found = {name: foresight.corrected[key]["int4/32"].load / items[key]["int4/32"].load for name, key in
             zip(CLASSES, ("embeddings", "layers.0.attention.dense", "head"), strict=True)}  # fmt: skip
    assert found == pytest.approx(factors, rel=0.02)
    limit = share * true_divergence(items, factors, dict.fromkeys(KEYS, "int4/32"))
    chosen = foresight.smallest(limit)
    best = min(
        total(items, each).cost for each in every(items) if true_divergence(items, factors, each) <= 0.98 * limit
    )
    assert total(items, chosen).cost <= best
    assert true_divergence(items, factors, chosen) <= 1.02 * limit


def test_one_known_divergence_moves_all_classes_alike() -> None:
    sums = dict(zip(CLASSES, (0.001, 0.002, 0.003), strict=True))
    assert fit([Known(sums, 0.012)]) == pytest.approx(dict.fromkeys(CLASSES, 2.0))
    assert fit([]) == dict.fromkeys(CLASSES, 1.0)
    assert fit([Known(sums, 0.0)]) == dict.fromkeys(CLASSES, 1.0)


def test_sums_are_of_classes() -> None:
    items = items_of(0)
    choices = dict.fromkeys(KEYS, "int4/32")
    sums = sums_of(items, choices)
    assert sum(sums.values()) == pytest.approx(total(items, choices).load)
    assert sums["layers"] == pytest.approx(sum(items[key]["int4/32"].load for key in KEYS[1:3]))
