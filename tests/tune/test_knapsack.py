"""The choice of options, against brute force."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_quant.tune.knapsack import Item, solve, total

ITEMS = st.lists(
    st.lists(st.tuples(st.integers(1, 10_000), st.integers(0, 10_000)), min_size=1, max_size=4), min_size=1, max_size=5
)


@settings(deadline=None, max_examples=60)
@given(ITEMS, st.floats(0.0, 1.1), st.sampled_from([1.0, 1e-7, 1e6]))
def test_the_choice_is_that_of_brute_force(numbers: list[list[tuple[int, int]]], share: float, unit: float) -> None:
    items = {
        f"t{index}": {f"o{number}": Item(cost * 1000.0, load * unit) for number, (cost, load) in enumerate(options)}
        for index, options in enumerate(numbers)
    }
    most = sum(max(item.load for item in options.values()) for options in items.values())
    # Between two sums, so that the solver's tolerance decides nothing.
    limit = (int(share * most / unit) + 0.5) * unit
    found = solve(items, limit)
    every = [dict(zip(items, names, strict=True)) for names in product(*(options for options in items.values()))]
    fitting = [total(items, choices).cost for choices in every if total(items, choices).load <= limit]
    if not fitting:
        assert found is None
    else:
        assert found is not None
        assert total(items, found).load <= limit
        assert total(items, found).cost == pytest.approx(min(fitting))
