"""Make text of tokens as they come: no half characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""What the tokenizers library decodes bytes to that are no character, or not yet one."""


class Detokenizer:
    """Decodes tokens one at a time. All parts together are what ``tokenizer.decode`` gives for all tokens.

    Args:
        tokenizer: the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Tokens are decoded together with those of the part before: some tokenizers drop a blank at the beginning.
        self._tokens: list[int] = []
        self._before = ""
        self._given = 0
        self._read = 0

    def feed(self, token: int) -> str:
        """Append a token; return the text that is complete now, which may be empty."""
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        complete = not text.endswith(_UNKNOWN)
        ready = text if complete else text[:-1]  # the bytes at the end may begin a character
        part, self._given = ready[self._given :], max(self._given, len(ready))
        if complete and len(self._tokens) > self._read:
            self._tokens = self._tokens[self._read :]
            self._given = len(self._tokenizer.decode(self._tokens))
            self._read = len(self._tokens)
        return part

    def finish(self) -> str:
        """Return what is left at the end: a sign for bytes that never became a character."""
        text = self._tokenizer.decode(self._tokens)
        part, self._given = text[self._given :], len(text)
        return part


class StopStrings:
    """Cuts a text at the stop string that ends first. Text that may begin one is held back until that is known.

    Args:
        stops: the stop strings; empty ones are ignored.

    Attributes:
        found: whether there was a stop string. All text after it is ignored.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def feed(self, part: str) -> str:
        """Append a part of the text; return the text that can be shown now."""
        if self.found:
            return ""
        text = self._held + part
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        longest = max((_overlap(text, stop) for stop in self._stops), default=0)
        shown = len(text) - longest
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """Return the text that was held back, at the end."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop`, which it does not hold."""
    longest = min(len(text), len(stop) - 1)
    return next((count for count in range(longest, 0, -1) if text.endswith(stop[:count])), 0)
