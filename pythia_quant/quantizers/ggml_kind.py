"""The types of ggml as kinds of grids that GPTQ solves on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pythia_quant.quantizers import ggml, ggml_fit, ggml_refine
from pythia_quant.quantizers.ggml_bytes import FLOATS, TYPES
from pythia_quant.quantizers.ggml_grid import BlockGrid, join
from pythia_quant.quantizers.grid import Grid
from pythia_quant.quantizers.grid_kind import GridKind


def kind_of(name: str) -> GridKind:
    """Return the kind of grids of a type, by its name in :data:`pythia_quant.quantizers.ggml.TYPES`."""
    return FloatKind(name) if name in FLOATS else BlockKind(name)


@dataclass(frozen=True)
class BlockKind:
    """Blocks of codes.

    Attributes:
        name: the name of the type.
    """

    name: str

    any_order = False

    def unit(self, width: int) -> int:
        """See :class:`GridKind`."""
        ggml.check_columns(self.name, width)
        return TYPES[self.name].block

    def fit(self, values: Tensor, importance: Tensor | None) -> BlockLevels:
        """See :class:`GridKind`."""
        return BlockLevels(self.name, ggml_fit.fit(self.name, values, importance))

    def join(self, groups: Sequence[BlockLevels]) -> BlockLevels:
        """See :class:`GridKind`."""
        return BlockLevels(self.name, join([each.grid for each in groups], 0))


@dataclass(frozen=True)
class BlockLevels:
    """The levels of blocks.

    Attributes:
        name: the name of the type.
        grid: what their codes stand for.
    """

    name: str
    grid: BlockGrid

    def at(self, rows: int | slice) -> Grid:
        """See :class:`pythia_quant.quantizers.refine.Rows`."""
        return self.grid.at(rows)

    def round(self, values: Tensor) -> Tensor:
        """See :class:`pythia_quant.quantizers.grid_kind.Levels`."""
        return self.grid.round(values)

    def refit(self, target: Tensor, hessian: Tensor, others: Tensor | None, values: Tensor) -> BlockLevels:
        """See :class:`pythia_quant.quantizers.grid_kind.Levels`."""
        return BlockLevels(self.name, ggml_refine.fit_blocks(target, hessian, others, values, self.grid))

    def stored(self, values: Tensor) -> ggml.Packed:
        """See :class:`pythia_quant.quantizers.grid_kind.Levels`."""
        return ggml.from_grid(self.name, self.grid, values)


@dataclass(frozen=True)
class FloatKind:
    """Floating-point numbers, to which weights are cast; also the levels, which are the same for all weights.

    Attributes:
        name: the name of the type.
    """

    name: str

    any_order = False

    def unit(self, width: int) -> int:
        """See :class:`GridKind`."""
        return width

    def fit(self, values: Tensor, importance: Tensor | None) -> FloatKind:  # noqa: ARG002 - a protocol's
        """See :class:`GridKind`."""
        return self

    def join(self, groups: Sequence[FloatKind]) -> FloatKind:  # noqa: ARG002
        """See :class:`GridKind`."""
        return self

    def at(self, rows: int | slice) -> FloatKind:  # noqa: ARG002
        """See :class:`pythia_quant.quantizers.refine.Rows`."""
        return self

    def round(self, values: Tensor) -> Tensor:
        """See :class:`pythia_quant.quantizers.grid_kind.Levels`."""
        return values.to(FLOATS[self.name]).float()

    def refit(self, target: Tensor, hessian: Tensor, others: Tensor | None, values: Tensor) -> FloatKind:  # noqa: ARG002
        """See :class:`pythia_quant.quantizers.grid_kind.Levels`."""
        return self

    def stored(self, values: Tensor) -> ggml.Packed:
        """See :class:`pythia_quant.quantizers.grid_kind.Levels`."""
        return ggml.quantize(values.T, self.name)
