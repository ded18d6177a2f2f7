"""Embeddings and head, which have a row for each token, as they are stored: in one piece, or frequent tokens apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pythia_quant.quantizers import blocks, token_rows
from pythia_quant.quantizers.blocks import Blocks
from pythia_quant.quantizers.grid import Quantized
from pythia_quant.quantizers.grid_kind import IntegerKind
from pythia_quant.recipe.onnx_variant import LAST_TOKENS, Choice, OnnxSettings

Stored = Blocks | Tensor
"""A weight as integers, or in fp32."""
FREQUENT = "_frequent"
"""The end of the names of tensors of frequent tokens."""


@dataclass(frozen=True)
class Piece:
    """Rows that are stored alike.

    Attributes:
        suffix: the end of the names of its tensors.
        choice: how they are stored.
        rows: consecutive rows of the matrix, one or two ranges.
    """

    suffix: str
    choice: Choice
    rows: tuple[slice, ...]

    @property
    def count(self) -> int:
        """The number of rows."""
        return sum(rows.stop - rows.start for rows in self.rows)

    def of(self, matrix: Tensor) -> Tensor:
        """Return the rows of a matrix, [rows, width]."""
        return matrix[self.rows[0]] if len(self.rows) == 1 else torch.cat([matrix[rows] for rows in self.rows])


def pieces(settings: OnnxSettings, choice: Choice, vocabulary: int) -> list[Piece]:
    """Return the pieces of a matrix of so many rows: the one in 4 bits and the one of frequent tokens, or all in one.

    Tokenizers of byte pairs number tokens as they merged them, the most frequent pair first, so the first tokens are
    the frequent ones of the tokenizer's text.
    """
    everything, first = (slice(0, vocabulary),), settings.frequent_tokens
    if choice.weights != "int4" or not first:
        return [Piece("", choice, everything)]
    finer = Choice("int8", choice.block_size, choice.activations)
    last = vocabulary - LAST_TOKENS
    if first >= last:
        return [Piece("", finer, everything)]
    return [
        Piece("", choice, (slice(first, last),)),
        Piece(FREQUENT, finer, (slice(0, first), slice(last, vocabulary))),
    ]


@dataclass(frozen=True)
class TokenTable:
    """A matrix of which each piece is stored: as integers in blocks, or in fp32.

    Attributes:
        pieces: where its rows are.
        stored: each piece, [rows, width].
    """

    pieces: tuple[Piece, ...]
    stored: tuple[Stored, ...]

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows of some tokens as a reader will get them, fp32 [tokens, width]; `ids` are int64 [tokens]."""
        found = []
        for piece, stored in zip(self.pieces, self.stored, strict=True):
            within, before = torch.full_like(ids, -1), 0
            for rows in piece.rows:
                inside = (ids >= rows.start) & (ids < rows.stop)
                within = torch.where(inside, ids - rows.start + before, within)
                before += rows.stop - rows.start
            chosen = within[within >= 0]
            if len(chosen):
                values = stored[chosen].float() if isinstance(stored, Tensor) else stored.dequantize(chosen)
                found.append((within >= 0, values))
        result = torch.empty(len(ids), found[0][1].shape[1])
        for where, values in found:
            result[where] = values
        return result


def quantize(matrix: Tensor, pieces: list[Piece], hessian: Tensor | None, where: str) -> TokenTable:
    """Return a matrix, [vocabulary, width], as it is stored: 4 bits are solved, others rounded.

    Args:
        matrix: in any floating-point dtype.
        pieces: see :func:`pieces`.
        hessian: of what is computed of the rows, fp32 [width, width]; None if no piece has 4 bits.
        where: the matrix' name, for errors.

    Raises:
        QuantizationError: a value is not finite or too large.
    """
    return TokenTable(tuple(pieces), tuple(_stored(piece.of(matrix), piece.choice, hessian, where) for piece in pieces))


def rounded(weight: Tensor, choice: Choice, into: Tensor | None = None) -> Stored:
    """Return a weight, [out, in], rounded as it is stored; `into` receives the weight that a reader will get."""
    if choice.weights == "fp32":
        return weight.float()
    return blocks.quantize(weight, choice.block_size or weight.shape[1], choice.bits, into)


def _stored(rows: Tensor, choice: Choice, hessian: Tensor | None, where: str) -> Stored:
    if choice.weights != "int4":
        return rounded(rows, choice)
    assert hessian is not None  # noqa: S101 - see :func:`quantize`
    solved = token_rows.solve(rows, hessian, IntegerKind(4, choice.block_size, symmetric=True), where)
    assert isinstance(solved, Quantized)  # noqa: S101 - of that kind of grids
    return blocks.from_quantized(solved)


def joined(table: list[Piece], parts: list[Tensor]) -> Tensor:
    """Put pieces together, each [rows, width]; return [vocabulary, width]."""
    if len(parts) == 1:
        return parts[0]
    return TokenTable(tuple(table), tuple(parts)).rows(torch.arange(sum(map(len, parts))))
