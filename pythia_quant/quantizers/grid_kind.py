"""What GPTQ needs of the grids that it solves on, and the integers of the GPTQ format as one kind of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.quantizers import refine
from pythia_quant.quantizers.ggml import Packed
from pythia_quant.quantizers.grid import Grid, Quantized, fit

Stored = Quantized | Packed
"""A matrix as a file stores it."""


class Levels(refine.Rows, Protocol):
    """The values that the weights of some neighbouring inputs may have; weights are [inputs, outputs] here."""

    def round(self, values: Tensor) -> Tensor:
        """Return the nearest values, fp32 in the shape of `values`."""
        ...

    def refit(self, target: Tensor, hessian: Tensor, others: Tensor | None, values: Tensor) -> Levels:
        """Return levels that leave no larger error for unchanged codes; change `values` to what the codes then mean.

        Args:
            target: the weights that give the target outputs, fp32 [in, out].
            hessian: fp32 [in, in].
            others: half the derivative of the error by each weight that errors of other inputs add, fp32 [in, out].
            values: the quantized weights, fp32 [in, out], which are values of these levels.
        """
        ...

    def stored(self, values: Tensor) -> Stored:
        """Return the matrix that a file stores, [out, in], for values of these levels, fp32 [in, out]."""
        ...


class GridKind(Protocol):
    """A kind of grids. Two that are equal make equal grids."""

    @property
    def any_order(self) -> bool:
        """Whether a file says which inputs form a group; otherwise they are neighbours."""
        ...

    def unit(self, width: int) -> int:
        """Return how many neighbouring inputs are fitted together.

        Raises:
            QuantizationError: they do not divide the inputs of the matrix.
        """
        ...

    def fit(self, values: Tensor, importance: Tensor | None) -> Any:
        """Return the levels of one group of inputs.

        Args:
            values: fp32 [in, out].
            importance: the weight of each input's squared error, fp32 [in, 1]; None if it is not known.

        Raises:
            QuantizationError: a scale exceeds fp16.
        """
        ...

    def join(self, groups: Sequence[Any]) -> Levels:
        """Return the levels of groups, which were fitted one by one, as those of all their inputs."""
        ...


@dataclass(frozen=True)
class IntegerKind:
    """The grids of the GPTQ format: codes, and for each group of inputs a scale and a zero point.

    Attributes:
        bits: the bits of a code.
        group_size: the number of inputs that share a scale; 0 if all inputs of a matrix do.
        symmetric: whether the middle code stands for 0.
    """

    bits: int
    group_size: int
    symmetric: bool

    any_order = True

    def unit(self, width: int) -> int:
        """See :class:`GridKind`."""
        size = self.group_size or width
        if width % size:
            raise QuantizationError(f"the group size {size} does not divide the width {width}")
        return size

    def fit(self, values: Tensor, importance: Tensor | None) -> IntegerLevels:
        """See :class:`GridKind`."""
        grid = fit(values, self.bits, 0, symmetric=self.symmetric, importance=importance)
        return IntegerLevels(grid, [0] * len(values))

    def join(self, groups: Sequence[IntegerLevels]) -> IntegerLevels:
        """See :class:`GridKind`."""
        grid = Grid(
            self.bits,
            torch.cat([each.grid.scale for each in groups]),
            torch.cat([each.grid.zero for each in groups]),
        )
        return IntegerLevels(grid, [group for group, each in enumerate(groups) for _ in each.groups])


@dataclass(frozen=True)
class IntegerLevels:
    """The levels of some groups.

    Attributes:
        grid: the grid of each group; its scale and zero are [groups, out].
        groups: the group of each input.
    """

    grid: Grid
    groups: list[int]

    def at(self, rows: int | slice) -> Grid:
        """See :class:`pythia_quant.quantizers.refine.Rows`."""
        return self.grid.at(self.groups[rows])

    def round(self, values: Tensor) -> Tensor:
        """See :class:`Levels`."""
        return self._of_inputs().round(values)

    def refit(self, target: Tensor, hessian: Tensor, others: Tensor | None, values: Tensor) -> IntegerLevels:
        """See :class:`Levels`."""
        before = self._of_inputs()
        steps = torch.round(values / before.scale)
        scale = refine.fit_scales(target, hessian, steps, before.scale, self._group_numbers(), others)
        torch.mul(steps, scale, out=values)
        first = [self.groups.index(group) for group in range(len(self.grid.scale))]
        return IntegerLevels(Grid(self.grid.bits, scale[first], self.grid.zero), self.groups)

    def stored(self, values: Tensor) -> Quantized:
        """See :class:`Levels`."""
        grid = self._of_inputs()
        return Quantized(
            bits=grid.bits,
            codes=torch.round(values / grid.scale + grid.zero).byte().T.contiguous(),
            scales=self.grid.scale.T.contiguous().half(),
            zeros=self.grid.zero.T.contiguous().byte(),
            groups=self._group_numbers(),
        )

    def _group_numbers(self) -> Tensor:
        return torch.tensor(self.groups, dtype=torch.int32, device=self.grid.scale.device)

    def _of_inputs(self) -> Grid:
        groups = self._group_numbers()
        return Grid(self.grid.bits, self.grid.scale[groups], self.grid.zero[groups])
