"""An estimate of the time that a command still takes, from what its steps are expected to take and what they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_ENOUGH = 0.05
"""The share of the expected time that must be measured before an estimate means something."""
_SKIPPED = 0.1
"""A step that took less than this share of what was expected had its result already, and says nothing of speed."""


@dataclass(frozen=True)
class ExpectedStep:
    """A step of a command before it runs.

    Attributes:
        name: as the step will be called when it begins.
        seconds: what it takes on a usual machine, by a rough model; only the proportions between steps matter.
        kind: steps of a kind are all slower or faster than expected by about the same factor.
        like: steps with the same text take equally long, such as one measurement in each round; empty for none.
    """

    name: str
    seconds: float
    kind: str
    like: str = ""


class TimeLeft:
    """Estimates the seconds that the steps to come will take, and corrects itself with every step that ends."""

    def __init__(self) -> None:
        self._to_come: list[ExpectedStep] = []
        self._ended: list[tuple[ExpectedStep, float]] = []

    def expect(self, steps: Sequence[ExpectedStep]) -> None:
        """Replace the steps to come; what was learned of steps that ended stays."""
        self._to_come = list(steps)

    def begin(self, name: str) -> ExpectedStep | None:
        """Take a step from those to come, which need not begin in their order; None if it is not among them."""
        for index, step in enumerate(self._to_come):
            if step.name == name:
                return self._to_come.pop(index)
        return None

    def end(self, step: ExpectedStep, seconds: float) -> None:
        """Learn what a step took."""
        if seconds >= _SKIPPED * self.predict(step):
            self._ended.append((step, seconds))

    def predict(self, step: ExpectedStep) -> float:
        """Return the seconds that a step will take, by steps like it, by its kind, and by all steps that ended."""
        if alike := [seconds for ended, seconds in self._ended if step.like and ended.like == step.like]:
            return sum(alike) / len(alike)
        overall = self._ratio(self._ended)
        of_kind = [(ended, seconds) for ended, seconds in self._ended if ended.kind == step.kind]
        # As if one more step of the kind had been as slow as all steps are: a single one may be an exception.
        return step.seconds * self._ratio([*of_kind, (step, overall * step.seconds)])

    def left(self, running: ExpectedStep | None, elapsed: float, of_parts: float | None) -> float | None:
        """Return the seconds until the last step has ended; None while that would be a guess.

        Args:
            running: the step that runs; None between two steps, or if it was not expected.
            elapsed: the seconds since it began.
            of_parts: the seconds left in it by the parts of it that are done; None if it has none.
        """
        to_come = tuple(self._to_come)
        if running and of_parts is not None and not to_come:
            return self._left_in(running, elapsed, of_parts)
        learned = sum(step.seconds for step, _ in self._ended)
        ahead = sum(step.seconds for step in (*to_come, *([running] if running else [])))
        if not learned or learned < _ENOUGH * (learned + ahead):
            return None
        return sum(map(self.predict, to_come)) + (self._left_in(running, elapsed, of_parts) if running else 0.0)

    def _left_in(self, step: ExpectedStep, elapsed: float, of_parts: float | None) -> float:
        """Return the seconds left in a step: it may have other parts, so that those which are counted are not all."""
        expected = max(self.predict(step) - elapsed, 0.0)
        if of_parts is None:
            return expected
        known = any(ended.kind == step.kind for ended, _ in self._ended)
        return max(expected, of_parts) if known or not step.seconds else (expected + of_parts) / 2

    @staticmethod
    def _ratio(ended: Sequence[tuple[ExpectedStep, float]]) -> float:
        """Return how many times longer than expected steps took; 1 of none."""
        expected = sum(step.seconds for step, _ in ended)
        return sum(seconds for _, seconds in ended) / expected if expected else 1.0
