"""Matrices in the types of ggml, the library below llama.cpp: their bytes, and rounding to them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.quantizers.ggml_bytes import FLOATS, TYPES, BlockType, Fields, pack, unpack, values
from pythia_quant.quantizers.ggml_fit import fit
from pythia_quant.quantizers.ggml_grid import BlockGrid
from pythia_quant.quantizers.grid import Quantized

__all__ = ["TYPES", "BlockType", "Packed", "from_grid", "from_quantized", "quantize"]

_VALUES_AT_ONCE = 2**18  # so few that temporaries stay in the CPU's cache
_SYMMETRIC = {4: "q4_0", 5: "q5_0", 8: "q8_0"}


@dataclass(frozen=True)
class Packed:
    """A matrix as the bytes of ggml's blocks.

    Attributes:
        type: the name in :data:`TYPES`.
        data: uint8 [rows, bytes of a row].
    """

    type: str
    data: Tensor

    def dequantize(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Return some rows dequantized, fp32 [rows, columns], computed as ggml computes them."""
        data = self.data[rows]
        if self.type in FLOATS:
            return data.contiguous().view(FLOATS[self.type]).float()
        kind = TYPES[self.type]
        return values(kind, unpack(self.type, data.reshape(-1, kind.size))).view(len(data), -1)

    def rows(self, rows: slice) -> Packed:
        """Return some rows of the matrix."""
        return Packed(self.type, self.data[rows])

    def columns(self, columns: slice) -> Packed:
        """Return some neighbouring columns as a matrix.

        Raises:
            QuantizationError: they are not those of whole blocks.
        """
        kind = TYPES[self.type]
        start, stop, step = columns.indices(self.data.shape[1] // kind.size * kind.block)
        if step != 1 or start % kind.block or stop % kind.block:
            raise QuantizationError(f"the columns {start} to {stop} are not whole blocks of {self.type}")
        return Packed(self.type, self.data[:, start // kind.block * kind.size : stop // kind.block * kind.size])

    def arranged(self, arrange: Callable[[Tensor], Tensor]) -> Packed:
        """Return the matrix with its rows in another order; `arrange` brings the rows of a tensor into it."""
        return Packed(self.type, arrange(self.data))

    def cpu(self) -> Packed:
        """Return the matrix in main memory."""
        return Packed(self.type, self.data.cpu())


def quantize(weight: Tensor, type: str, importance: Tensor | None = None) -> Packed:  # noqa: A002 - the word of ggml
    """Round a matrix to the values of a type that leave the least squared error in each block; cast it to a float type.

    Args:
        weight: fp32 [rows, columns].
        type: the name in :data:`TYPES`.
        importance: the weight of each column's squared error, fp32 [columns]; None if all count alike.

    Raises:
        QuantizationError: a block does not divide the columns, a value is not finite, or fp16 cannot hold one.
    """
    if type in FLOATS:
        return _cast(weight, type)
    kind, (rows, columns) = TYPES[type], weight.shape
    check_columns(type, columns)
    data = torch.empty(rows, columns // kind.block * kind.size, dtype=torch.uint8)
    at_once = max(1, _VALUES_AT_ONCE // columns)

    def quantize_part(start: int) -> None:
        part = slice(start, start + at_once)
        # Blocks of one place below each other, those of one row first: the weight of a column's error is the same then.
        by_input = weight[part].float().T.contiguous()
        grid = fit(type, by_input, None if importance is None else importance[:, None])
        data[part] = from_grid(type, grid, by_input).data

    # Each part is computed by one thread, see blocks.quantize.
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(quantize_part, range(0, rows, at_once)):
            pass
    torch.set_num_threads(threads)
    return Packed(type, data)


def check_columns(type: str, columns: int) -> None:  # noqa: A002
    """Refuse a type whose blocks do not divide the columns of a matrix.

    Raises:
        QuantizationError: they do not; the message has both numbers.
    """
    if columns % TYPES[type].block:
        raise QuantizationError(f"blocks of {TYPES[type].block} ({type}) do not divide {columns} columns")


def from_grid(type: str, grid: BlockGrid, weight: Tensor) -> Packed:  # noqa: A002
    """Return the nearest values of a grid as a matrix.

    Args:
        type: the name in :data:`TYPES`.
        grid: the grid.
        weight: fp32 [columns, rows].
    """

    def by_block(numbers: Tensor, count: int) -> Tensor:  # [columns or groups, rows] to [rows * blocks, of a block]
        return numbers.T.reshape(-1, count)

    def half(numbers: Tensor | None) -> Tensor | None:
        return None if numbers is None else by_block(numbers, 1)[:, 0].half()

    kind = grid.kind
    groups = kind.block // kind.group
    integers = torch.int8 if kind.zero is not None else torch.uint8
    fields = Fields(
        by_block(grid.encode(weight), kind.block),
        by_block(grid.scale, 1)[:, 0].half(),
        half(grid.minimum),
        None if grid.scales is None else by_block(grid.scales, groups).to(integers),
        None if grid.minimums is None else by_block(grid.minimums, groups).byte(),
    )
    return Packed(type, pack(type, fields).view(weight.shape[1], -1))


def from_quantized(quantized: Quantized, type: str) -> Packed:  # noqa: A002
    """Return the same integers as blocks of a symmetric type: q4_0, q5_0 or q8_0. Nothing is rounded.

    Args:
        quantized: a weight, [out, in], whose groups consist of neighbouring inputs and of whole blocks.
        type: the name in :data:`TYPES`.

    Raises:
        QuantizationError: the bits are others, a zero point is not the middle code, or groups are not whole blocks.
    """
    wanted = _SYMMETRIC.get(quantized.bits)
    if wanted != type:
        raise QuantizationError(
            f"codes of {quantized.bits} bits do not fit {type}", hint=f"say {wanted}" if wanted else ""
        )
    if not (quantized.zeros == 2 ** (quantized.bits - 1)).all():
        raise QuantizationError(f"codes with zero points do not fit {type}", hint="say symmetric: true")
    kind, width = TYPES[type], len(quantized.groups)
    if width % kind.block or (quantized.groups.view(-1, kind.block) != quantized.groups[:: kind.block, None]).any():
        raise QuantizationError(
            f"{type} has a scale for {kind.block} neighbouring inputs, and these groups are others",
            hint="choose a group size that is a multiple of 32, and no dynamic activation order",
        )
    scales = quantized.scales[:, quantized.groups[:: kind.block].long()]
    fields = Fields(quantized.codes.reshape(-1, kind.block), scales.reshape(-1))
    return Packed(type, pack(type, fields).view(len(quantized.codes), -1))


def _cast(weight: Tensor, type: str) -> Packed:  # noqa: A002
    cast = weight.to(FLOATS[type])
    if not cast.isfinite().all():
        raise QuantizationError(f"values to store as {type} are not finite, or too large for it")
    return Packed(type, cast.contiguous().view(torch.uint8))
