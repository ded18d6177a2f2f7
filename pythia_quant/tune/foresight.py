"""Foresee the drift of choices, and solve for the best ones, before anything is converted.

What tensors cost alone is corrected by a factor for each class, until the sums agree with the divergence of the choices
that are solved for; uniform choices are candidates like any other.
"""

from __future__ import annotations

from pythia_quant.tune.choices import Choices, Option, uniform_choices
from pythia_quant.tune.factors import Known, corrected, fit, sums_of
from pythia_quant.tune.knapsack import Item, Items, solve, total
from pythia_quant.tune.together import Together

ROUNDS = 4
"""The most choices that are foreseen for one limit, without uniform ones."""
UNIFORM = 2
"""The most uniform choices that are foreseen for one limit."""
ALIKE = 1.001
"""Sizes that differ by less are alike, and less drift decides: a mix's graph takes some bytes more than a uniform's."""
CLOSE = 0.98
"""A choice that uses so much of a limit is close enough to it."""


class Foresight:
    """What is known of the drift of choices.

    Args:
        items: what each option of each tensor takes and costs alone.
        together: computes choices; None if nothing can, so that only measured trials correct the sums.
    """

    def __init__(self, items: Items, together: Together | None) -> None:
        self.items, self._together = items, together if together is not None and together.foresees else None
        self._known: dict[tuple[tuple[str, str], ...], Known] = {}
        self._uniform = uniform_choices({key: list(options) for key, options in items.items()})
        self.corrected = items

    @property
    def exact(self) -> bool:
        """Whether choices are computed, and not only summed up."""
        return self._together is not None

    def observe(self, choices: Choices, divergence: float) -> None:
        """Correct the sums by choices whose divergence is known, nats a token."""
        self._known[tuple(sorted(choices.items()))] = Known(sums_of(self.items, choices), divergence)
        self.corrected = corrected(self.items, fit(list(self._known.values())))

    def divergence(self, choices: Choices) -> float:
        """Return the divergence of choices on the search text, nats a token, of the weights: computed, or a sum."""
        if self._together is None:
            return self._sum(choices)
        value = self._together.divergence(choices)
        if tuple(sorted(choices.items())) not in self._known:
            self.observe(choices, value)
        return value

    def cost(self, choices: Choices) -> float:
        """Return the bytes of choices."""
        return total(self.items, choices).cost

    def finest(self) -> dict[str, Option]:
        """Return the choices that cost least drift."""
        return _least(self.items)

    def smallest(self, limit: float) -> dict[str, Option]:
        """Return the fewest bytes whose divergence is at most `limit`, nats a token; the finest choices if none is."""
        tried: list[dict[str, Option]] = []
        goal = limit
        for _ in range(ROUNDS if self.exact else 1):
            choices = solve(self.corrected, goal) or self.finest()
            if choices in tried:
                if any(self.divergence(each) <= limit for each in tried):
                    break
                goal *= 0.9
                continue
            tried.append(choices)
            value = self.divergence(choices)
            if CLOSE * limit <= value <= limit or choices == self.finest():
                break
            # Sums that were corrected still differ from what was computed: as much as here, most likely.
            goal = 0.995 * limit * self._sum(choices) / max(value, 1e-12)
        fitting = [choices for choices in tried if self.divergence(choices) <= limit]
        if not fitting:
            return tried[-1] if not self.exact else self.finest()
        best = min(fitting, key=self.cost)
        small = [choices for choices in self._uniform if self.cost(choices) < self.cost(best) * ALIKE]
        found = [best, *self._fitting_uniform(small, limit)]
        least = min(map(self.cost, found))
        return min((each for each in found if self.cost(each) <= least * ALIKE), key=self.divergence)

    def least_drift(self, size: float) -> dict[str, Option] | None:
        """Return the least divergence in at most `size` bytes; None if all choices are larger."""
        tried: list[dict[str, Option]] = []
        for _ in range(ROUNDS if self.exact else 1):
            items = {
                key: {option: Item(item.load, item.cost) for option, item in options.items()}
                for key, options in self.corrected.items()
            }
            choices = solve(items, size)
            if choices is None or choices in tried:
                break
            tried.append(choices)
            self.divergence(choices)
        if (uniform := self.best_uniform(size)) is not None:
            tried.append(uniform)
        return min(tried, key=self.divergence, default=None)

    def best_uniform(self, size: float) -> dict[str, Option] | None:
        """Return the uniform choices with the least divergence in at most `size` bytes; None if all are larger."""
        small = sorted((each for each in self._uniform if self.cost(each) <= size * (1 + 1e-9)), key=self._sum)
        return min(small[: UNIFORM if self.exact else 1], key=self.divergence, default=None)

    def smallest_uniform(self, limit: float) -> dict[str, Option] | None:
        """Return the smallest uniform choices whose divergence is at most `limit`; None if none was found."""
        by_size = sorted(self._uniform, key=self.cost)
        likely = [choices for choices in by_size if self._sum(choices) <= 1.1 * limit][: 2 * UNIFORM]
        return next((choices for choices in likely if self.divergence(choices) <= limit), None)

    def _fitting_uniform(self, uniform: list[dict[str, Option]], limit: float) -> list[dict[str, Option]]:
        likely = sorted((each for each in uniform if self._sum(each) <= 1.1 * limit), key=self._sum)
        return [choices for choices in likely[:UNIFORM] if self.divergence(choices) <= limit]

    def _sum(self, choices: Choices) -> float:
        return total(self.corrected, choices).load


def _least(items: Items) -> dict[str, Option]:
    return {
        key: min(options, key=lambda option, options=options: (options[option].load, options[option].cost))  # type: ignore[misc]
        for key, options in items.items()
    }
