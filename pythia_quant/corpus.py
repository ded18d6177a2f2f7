"""Token sequences: windows of a text, and the check that calibration and evaluation text do not overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pythia_quant.errors import CorpusError

Tokens = NDArray[np.int64]

OVERLAP_LENGTH = 13
"""Tokens in a row that count as the same text: the n-gram length of the decontamination of GPT-3 (arXiv 2005.14165, appendix C)."""


def encode(tokenizer: Tokenizer, text: str) -> Tokens:
    """Tokenize `text` once, without a BOS token. Returns int64 [tokens]."""
    return np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)


def windows(tokens: Tokens, length: int, limit: int | None = None) -> Tokens:
    """Cut `tokens` into consecutive, non-overlapping windows; the incomplete last one is dropped.

    Returns:
        int64 [windows, length], at most `limit` rows.

    Raises:
        CorpusError: the text is shorter than one window.
    """
    count = len(tokens) // length
    if count == 0:
        raise CorpusError(f"the text has {len(tokens):,} tokens, a window takes {length:,}", hint="give a longer text")
    return tokens[: count * length].reshape(count, length)[:limit]


def shared(tokens: Tokens, other: Tokens, length: int = OVERLAP_LENGTH) -> NDArray[np.bool_]:
    """Mark the tokens that lie in a run of `length` tokens which also occurs in `other`.

    Runs are compared by a 64-bit polynomial hash: for texts of millions of tokens a false match has odds below 1e-6.

    Returns:
        bool [len(tokens)].
    """
    mark = np.zeros(len(tokens), dtype=bool)
    starts = np.flatnonzero(np.isin(_run_hashes(tokens, length), _run_hashes(other, length)))
    for offset in range(length):
        mark[starts + offset] = True
    return mark


def _run_hashes(tokens: Tokens, length: int) -> NDArray[np.uint64]:
    count = max(len(tokens) - length + 1, 0)
    hashes = np.zeros(count, dtype=np.uint64)
    # Odd multiplier: 2^64 divided by the golden ratio, as in Fibonacci hashing. Overflow wraps, which is the point.
    multiplier = np.uint64(0x9E3779B97F4A7C15)
    values = (tokens.astype(np.uint64) + np.uint64(1)) * multiplier
    values ^= values >> np.uint64(32)
    for offset in range(length):
        hashes = hashes * multiplier + values[offset : offset + count]
    return hashes
