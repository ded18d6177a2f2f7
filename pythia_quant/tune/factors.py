"""How much more or less than its prediction each class of tensors costs: embeddings, layers, head.

Predictions err in their own way in each class: to second order, embeddings are overrated most, as their errors pass all
layers. So choices whose divergence is known correct a factor for each class, and none for single tensors: a few numbers
do not say more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from pythia_quant.tune.choices import Choices
from pythia_quant.tune.knapsack import Item, Items

CLASSES = ("embeddings", "layers", "head")
TRUST = 0.02
"""The weight of the last factors against one known divergence: they move where that asks for it, and not by noise."""
_FARTHEST = 20.0
_LEAST = 1e-12


@dataclass(frozen=True)
class Known:
    """Choices with their divergence.

    Attributes:
        sums: what the tensors of each class cost alone, summed up, nats a token.
        divergence: of all of them together, nats a token.
    """

    sums: Mapping[str, float]
    divergence: float


def class_of(key: str) -> str:
    """Return the class of a tensor, by the key that recipes name it by."""
    return key if key in CLASSES else "layers"


def sums_of(items: Items, choices: Choices) -> dict[str, float]:
    """Return the loads of choices, summed up in each class."""
    sums = dict.fromkeys(CLASSES, 0.0)
    for key, option in choices.items():
        sums[class_of(key)] += items[key][option].load
    return sums


def corrected(items: Items, factors: Mapping[str, float]) -> Items:
    """Return items whose loads are multiplied by the factor of their class."""
    return {
        key: {option: Item(item.cost, item.load * factors[class_of(key)]) for option, item in options.items()}
        for key, options in items.items()
    }


def fit(known: Sequence[Known]) -> dict[str, float]:
    """Return the factors that explain known divergences best, in shares of each, the least far from one common factor.

    Args:
        known: choices with their divergences; those that are not positive say nothing of factors.

    Returns:
        The factor of each class, positive.
    """
    used = [each for each in known if each.divergence > _LEAST and sum(each.sums.values()) > _LEAST]
    if not used:
        return dict.fromkeys(CLASSES, 1.0)
    common = float(np.exp(np.mean([np.log(each.divergence / sum(each.sums.values())) for each in used])))
    shares = np.array([[each.sums[name] * common / each.divergence for name in CLASSES] for each in used])
    weight = TRUST**0.5
    rows = np.vstack([shares, weight * np.eye(len(CLASSES))])
    targets = np.concatenate([np.ones(len(used)), np.full(len(CLASSES), weight)])
    found = lsq_linear(rows, targets, bounds=(1 / _FARTHEST, _FARTHEST)).x
    return {name: common * float(value) for name, value in zip(CLASSES, found, strict=True)}
