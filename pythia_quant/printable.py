"""Text from files and hubs made safe to show: nothing in it moves a cursor, colours a line or turns its direction."""

from __future__ import annotations

import re

# C0 and C1 controls but tab and line feed, marks and overrides of direction, line separators, half surrogate pairs.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return `text` with every control character as an escape such as ``\\x1b``; tabs and line feeds stay."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)
