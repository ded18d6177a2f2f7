"""Which of several choices are worth a look when two things count."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that no other one beats, by rising first value; lower is better in both.

    A point is beaten by one that is at most as large in both values and smaller in at least one. Of equal points all
    stay.
    """
    best = math.inf
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: points[index]):
        # Sorted like this, a point can only be beaten by one before it; an equal one is right before it.
        if points[index][1] < best or (front and points[index] == points[front[-1]]):
            best = points[index][1]
            front.append(index)
    return front
