"""The values that the codes of ggml's blocks stand for.

Weights are [inputs, outputs] here, so that a block extends along the first dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pythia_quant.quantizers.ggml_bytes import BlockType
from pythia_quant.quantizers.grid import Grid


@dataclass(frozen=True)
class BlockGrid:
    """The values that codes of blocks stand for; see :class:`pythia_quant.quantizers.ggml_bytes.Fields`.

    Attributes:
        kind: the type.
        scale: fp32 [blocks, outputs] with values that fp16 can represent, none of them 0.
        minimum: the same of the minimums; None in types with a zero.
        scales: the integers that the scale is multiplied with, fp32 [groups, outputs], none of them 0; None in types
            whose blocks are one group.
        minimums: the same of the minimums, 0 or more.
    """

    kind: BlockType
    scale: Tensor
    minimum: Tensor | None = None
    scales: Tensor | None = None
    minimums: Tensor | None = None

    @property
    def _groups(self) -> int:
        return self.kind.block // self.kind.group

    @cached_property
    def _zero(self) -> Tensor:
        return torch.tensor(float(self.kind.zero or 0), device=self.scale.device)

    @cached_property
    def step(self) -> Tensor:
        """What a code is multiplied with, fp32 [groups, outputs]."""
        return self.scale if self.scales is None else self.scale.repeat_interleave(self._groups, 0) * self.scales

    @cached_property
    def lowest(self) -> Tensor | None:
        """What code 0 stands for, fp32 [groups, outputs]; None in types with a zero."""
        if self.minimum is None or self.minimums is None:
            return self.minimum
        return -(self.minimum.repeat_interleave(self._groups, 0) * self.minimums)

    def at(self, rows: int | slice) -> Grid:
        """Return the grid of one input, whose scale is [outputs], or of neighbours, [inputs, outputs]."""
        size = self.kind.group
        groups = rows // size if isinstance(rows, int) else [row // size for row in range(rows.start, rows.stop)]
        return Grid(self.kind.bits, self.step[groups], self._zero, None if self.lowest is None else self.lowest[groups])

    def whole(self) -> Grid:
        """Return the grid of all inputs for values [groups, weights of a group, outputs]."""
        return Grid(
            self.kind.bits, self.step[:, None], self._zero, None if self.lowest is None else self.lowest[:, None]
        )

    def round(self, values: Tensor) -> Tensor:
        """Return the nearest values of the grid, fp32 [inputs, outputs]."""
        return self.whole().round(values.view(-1, self.kind.group, values.shape[1])).view(values.shape)

    def encode(self, values: Tensor) -> Tensor:
        """Return the codes of the nearest values, uint8 [inputs, outputs]."""
        return self.whole().encode(values.view(-1, self.kind.group, values.shape[1])).view(values.shape)

    def part(self, blocks: slice, outputs: slice) -> BlockGrid:
        """Return the grid of some blocks and outputs."""
        groups = slice(blocks.start * self._groups, blocks.stop * self._groups)

        def cut(numbers: Tensor | None, inputs: slice) -> Tensor | None:
            return None if numbers is None else numbers[inputs, outputs]

        return BlockGrid(
            self.kind,
            self.scale[blocks, outputs],
            cut(self.minimum, blocks),
            cut(self.scales, groups),
            cut(self.minimums, groups),
        )

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values that codes, uint8 [inputs, outputs], stand for, fp32."""
        return self.whole().decode(codes.view(-1, self.kind.group, codes.shape[1])).view(codes.shape)


def join(grids: Sequence[BlockGrid], dim: int) -> BlockGrid:
    """Join grids of the same type: 0 puts their inputs below each other, 1 their outputs side by side."""

    def joined(each: list[Tensor | None]) -> Tensor | None:
        there = [tensor for tensor in each if tensor is not None]
        return torch.cat(there, dim) if there else None

    return BlockGrid(
        grids[0].kind,
        torch.cat([grid.scale for grid in grids], dim),
        joined([grid.minimum for grid in grids]),
        joined([grid.scales for grid in grids]),
        joined([grid.minimums for grid in grids]),
    )


def choose(where: Tensor, first: BlockGrid, second: BlockGrid) -> BlockGrid:
    """Return the blocks of the first grid where a mask [blocks, outputs] is set, and those of the second elsewhere."""
    kind = first.kind

    def pick(one: Tensor | None, other: Tensor | None, mask: Tensor) -> Tensor | None:
        return None if one is None or other is None else torch.where(mask, one, other)

    in_groups = where.repeat_interleave(kind.block // kind.group, 0) if first.scales is not None else where
    return BlockGrid(
        kind,
        torch.where(where, first.scale, second.scale),
        pick(first.minimum, second.minimum, where),
        pick(first.scales, second.scales, in_groups),
        pick(first.minimums, second.minimums, in_groups),
    )
