"""Matrices side by side that GPTQ solves as one: which inputs are fitted together, and to which kind of grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from torch import Tensor

from pythia_quant.quantizers import refine
from pythia_quant.quantizers.grid_kind import GridKind, Levels, Stored


@dataclass(frozen=True)
class Section:
    """Matrices side by side that have the same kind of grids.

    Attributes:
        kind: the kind.
        parts: the first input of each matrix, and the one after its last.
        bounds: the same of each group that is fitted together.
    """

    kind: GridKind
    parts: list[tuple[int, int]]
    bounds: list[tuple[int, int]]

    @property
    def inputs(self) -> slice:
        """All inputs of the matrices."""
        return slice(self.bounds[0][0], self.bounds[-1][1])

    def fit(self, values: Tensor, importance: Tensor | None) -> Levels:
        """Fit every group to the weights of all inputs, [in, out]; importance is [in, 1]."""
        return self.kind.join(
            [
                self.kind.fit(values[start:stop], None if importance is None else importance[start:stop])
                for start, stop in self.bounds
            ]
        )

    def stored(self, levels: Levels, values: Tensor) -> list[Stored]:
        """Return each matrix as a file stores it, for the values of all inputs, [in, out]."""
        first = self.inputs.start
        whole = levels.stored(values[self.inputs])
        return [whole.columns(slice(start - first, stop - first)) for start, stop in self.parts]


def cut(parts: tuple[int, ...], kinds: Sequence[GridKind]) -> list[Section]:
    """Put matrices with so many inputs together where neighbours have the same kind of grids.

    Raises:
        QuantizationError: a group size does not divide the inputs.
    """
    sections = []
    places = list(zip(accumulate(parts, initial=0), accumulate(parts), kinds, strict=False))
    for kind, members in groupby(places, key=lambda place: place[2]):
        inside = [(start, stop) for start, stop, _ in members]
        bounds = []
        for start, stop in inside:
            unit = kind.unit(stop - start)
            bounds += [(first, first + unit) for first in range(start, stop, unit)]
        sections.append(Section(kind, inside, bounds))
    return sections


@dataclass(frozen=True)
class SideBySide:
    """The levels of sections.

    Attributes:
        sections: the sections, which cover all inputs.
        levels: the levels of each.
    """

    sections: list[Section]
    levels: list[Levels]

    def at(self, row: int) -> refine.Row:
        """Return the levels of one input."""
        for section, levels in zip(self.sections, self.levels, strict=True):
            if row < section.inputs.stop:
                return levels.at(row - section.inputs.start)
        raise IndexError(row)

    def refit(self, target: Tensor, hessian: Tensor, values: Tensor) -> SideBySide:
        """Return levels fitted to the codes, one section after the other, and change the values to them."""
        after = []
        for section, levels in zip(self.sections, self.levels, strict=True):
            inputs, others = section.inputs, None
            if len(self.sections) > 1:
                error = values - target
                error[inputs] = 0
                others = hessian[inputs] @ error
            after.append(levels.refit(target[inputs], hessian[inputs, inputs], others, values[inputs]))
        return SideBySide(self.sections, after)
