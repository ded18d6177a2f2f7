"""From a text to windows of tokens, and the check that calibration and evaluation text do not overlap."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pythia_quant.core.errors import CorpusError
from pythia_quant.core.files import Cache
from pythia_quant.model.tokenizer import tokenize

_LEAST_CHARACTERS = 100_000
"""Shorter texts are tokenized each time: that takes less than 0.1 s."""
_TOKENS_VERSION = "1"
"""To be raised when :func:`encode` gives other tokens for the same text and tokenizer, or its entries change."""
_CACHE = Cache("tokens", 500_000_000)

Tokens = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)

OVERLAP_LENGTH = 13
"""So many equal tokens in a row are the same text: the length of n-grams by which GPT-3's training text was filtered
(arXiv 2005.14165, appendix C)."""

MAX_OVERLAP = 0.05
"""The largest share of calibration windows that may overlap the evaluation text. Overlapping windows are not drawn."""


@dataclass(frozen=True)
class Text:
    """A text with the name it is reported under."""

    name: str
    content: str

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the text as UTF-8."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    @property
    def utf8_bytes(self) -> int:
        """Length of the text as UTF-8."""
        return len(self.content.encode())


def encode(tokenizer: Tokenizer, text: str) -> Tokens:
    """Tokenize a text without special tokens around it; return int64 [tokens].

    The tokens of a long text are cached by the content of the text and the tokenizer.

    Raises:
        CorpusError: the text cannot be UTF-8, or the tokenizer fails on it.
    """
    if len(text) < _LEAST_CHARACTERS:
        return np.array(tokenize(tokenizer, text).ids, dtype=np.int64)
    parts = (_TOKENS_VERSION, tokenizers.__version__, tokenizer.to_str(), text)
    digests = [hashlib.sha256(part.encode(errors="surrogatepass")).hexdigest() for part in parts]
    key = hashlib.sha256("".join(digests).encode()).hexdigest()[:32]
    if (content := _CACHE.read(key)) is None:
        content = np.array(tokenize(tokenizer, text).ids, dtype="<i4").tobytes()
        _CACHE.write(key, content)
    return np.frombuffer(content, dtype="<i4").astype(np.int64)


def windows(tokens: NDArray[T], length: int) -> NDArray[T]:
    """Cut tokens into consecutive windows; the incomplete last one is dropped.

    Returns:
        [windows, length].

    Raises:
        CorpusError: the text is shorter than one window.
    """
    count = len(tokens) // length
    if count == 0:
        raise CorpusError(f"the text has {len(tokens):,} tokens, a window takes {length:,}", hint="give a longer text")
    return tokens[: count * length].reshape(count, length)


def spread_windows(tokens: NDArray[T], length: int, count: int | None = None) -> NDArray[T]:
    """Select `count` of a text's windows, spread evenly over it: the middle one of each of `count` equal parts.

    Of M windows these have the indices (2 i + 1) M / (2 count), rounded down, for i from 0.

    Returns:
        [windows, length], in the text's order; all windows if `count` is None or the text has no more.

    Raises:
        CorpusError: the text is shorter than one window.
    """
    rows = windows(tokens, length)
    if count is None or count >= len(rows):
        return rows
    return rows[(2 * np.arange(count) + 1) * len(rows) // (2 * count)]


def calibration_windows(tokens: Tokens, evaluation: Tokens, length: int, count: int, seed: int) -> Tokens:
    """Draw windows at random, none of which shares 13 tokens in a row with the evaluation text.

    Args:
        tokens: the calibration text, int64 [tokens].
        evaluation: the evaluation text, int64 [tokens].
        length: tokens in a window.
        count: windows to draw.
        seed: the seed of the random draw.

    Returns:
        int64 [count, length].

    Raises:
        CorpusError: the calibration text is too short, or more than 5 % of its windows overlap the evaluation text.
    """
    rows = _usable(tokens, evaluation, length)
    if len(rows) < count:
        raise CorpusError(
            f"the calibration text has {len(rows):,} usable windows of {length:,} tokens, {count:,} are asked for",
            hint="give a longer text, or lower calibration.windows",
        )
    return rows[np.sort(_order(len(rows), seed)[:count])]


def undrawn_windows(tokens: Tokens, evaluation: Tokens, length: int, count: int, seed: int) -> Tokens:
    """Return the usable windows that :func:`calibration_windows` leaves, in the text's order, int64 [windows, length].

    For the arguments and errors see there. There may be none.
    """
    rows = _usable(tokens, evaluation, length)
    return rows[np.sort(_order(len(rows), seed)[count:])]


def _usable(tokens: Tokens, evaluation: Tokens, length: int) -> Tokens:
    rows = windows(tokens, length)
    overlapping = windows(shared(tokens, evaluation), length).any(axis=1)
    if overlapping.mean() > MAX_OVERLAP:
        raise CorpusError(
            f"{overlapping.sum():,} of {len(rows):,} calibration windows share {OVERLAP_LENGTH} tokens in a row with "
            "the evaluation text",
            hint="a quantizer that has seen the test flatters itself: calibrate on another text",
        )
    return rows[~overlapping]


def _order(count: int, seed: int) -> Tokens:
    return np.random.default_rng(seed).permutation(count)


def shared(tokens: Tokens, other: Tokens, length: int = OVERLAP_LENGTH) -> NDArray[np.bool_]:
    """Mark the tokens that lie in a run of `length` tokens which also occurs in `other`.

    Runs are compared by a 64-bit polynomial hash. In texts of millions of tokens, the probability of a false match is
    below 1e-6.

    Returns:
        bool [len(tokens)].
    """
    mark = np.zeros(len(tokens), dtype=bool)
    hashes, others = _run_hashes(tokens, length), _run_hashes(other, length)
    # A few bits of the hash are enough to exclude most runs; a comparison of all hashes takes seconds.
    likely = np.flatnonzero(_bits_occur(hashes, others))
    starts = likely[np.isin(hashes[likely], others[_bits_occur(others, hashes[likely])])]
    for offset in range(length):
        mark[starts + offset] = True
    return mark


def _bits_occur(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Mark the hashes whose lowest 24 bits are also the lowest 24 bits of one of `others`."""
    bits = np.uint64(2**24 - 1)
    occurs: NDArray[np.bool_] = np.zeros(2**24, dtype=bool)
    occurs[others & bits] = True
    marked: NDArray[np.bool_] = occurs[hashes & bits]
    return marked


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
