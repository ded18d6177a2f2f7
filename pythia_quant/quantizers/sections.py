"""Matrices side by side that GPTQ solves as one: which inputs are fitted together, and to which kind of grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
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

    def at(self, rows: int | slice) -> refine.Row:
        """Return the levels of one input, or of neighbours."""
        parts: list[tuple[slice, refine.Row]] = []
        for section, levels in zip(self.sections, self.levels, strict=True):
            first, last = section.inputs.start, section.inputs.stop
            if isinstance(rows, int):
                if rows < last:
                    return levels.at(rows - first)
            elif (start := max(first, rows.start)) < (stop := min(last, rows.stop)):
                there = slice(start - rows.start, stop - rows.start)
                parts.append((there, levels.at(slice(start - first, stop - first))))
        return _Several(parts)

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


@dataclass(frozen=True)
class _Several:
    """The levels of neighbours in several sections, and where the inputs of each are among them."""

    parts: list[tuple[slice, refine.Row]]

    def round(self, values: Tensor) -> Tensor:
        return torch.cat([levels.round(values[where]) for where, levels in self.parts])
