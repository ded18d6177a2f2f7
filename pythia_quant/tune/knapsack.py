"""Choose one option for each tensor: a multiple-choice knapsack, solved exactly by HiGHS through scipy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from pythia_quant.core.errors import BenchmarkError
from pythia_quant.tune.choices import Option


@dataclass(frozen=True)
class Item:
    """What one option of a tensor is worth: `cost` is what is minimized, and `load` what a limit holds in bounds."""

    cost: float
    load: float


Items = Mapping[str, Mapping[Option, Item]]
"""The options of each tensor, by its key."""


def solve(items: Items, limit: float) -> dict[str, Option] | None:
    """Return the choices with the least total cost whose total load is at most `limit`; None if there are none.

    Args:
        items: the options of each tensor.
        limit: of the sum of loads.

    Raises:
        BenchmarkError: the solver gives up.
    """
    names = [(key, option) for key, options in items.items() for option in options]
    pairs = [items[key][option] for key, option in names]
    costs, loads = (np.array(values) for values in zip(*((pair.cost, pair.load) for pair in pairs), strict=True))
    keys = list(items)
    one_each = np.array([[float(key == name) for name, _ in names] for key in keys])
    # The solver's tolerances are absolute, so both sums are brought to the size of 1.
    scale, unit = max(abs(limit), 1e-300), max(float(np.abs(costs).max()), 1e-300)
    found = milp(
        costs / unit,
        integrality=np.ones(len(names)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(loads / scale, -np.inf, limit / scale)],
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        if found.status == 2:
            return None
        raise BenchmarkError(f"the choice could not be solved: {found.message}")
    return {key: option for (key, option), taken in zip(names, found.x, strict=True) if taken > 0.5}


def total(items: Items, choices: Mapping[str, Option]) -> Item:
    """Return the sums of cost and load of choices."""
    chosen = [items[key][option] for key, option in choices.items()]
    return Item(sum(item.cost for item in chosen), sum(item.load for item in chosen))
