"""What files and hubs say made safe to show: short, and without what moves a cursor, colours or turns a line."""

from __future__ import annotations

import logging
import re
import warnings

# C0 and C1 controls but tab and line feed, marks and overrides of direction, line separators, half surrogate pairs,
# and what is no character, which XML refuses.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return `text` with every control character as an escape such as ``\\x1b``; tabs and line feeds stay."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def without_hidden(text: str) -> str:
    """Return `text` without what :func:`printable` would escape."""
    return _UNSAFE.sub("", text)


def printable_json(text: str) -> str:
    """Return a JSON text that means the same, with every control character as JSON's own escape."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _PrintableRecord(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802 - logging's name
        return printable(super().getMessage())


def log_printable() -> None:
    """Have what libraries log, and warn of, shown with escapes in this process: they quote files."""
    logging.setLogRecordFactory(_PrintableRecord)
    unescaped = warnings.formatwarning
    warnings.formatwarning = lambda *told, **more: printable(unescaped(*told, **more))


def short(value: object, most: int = 80) -> str:
    """Return the `repr` of any value, cut to `most` characters; one that has none is named by its type."""
    try:
        text = repr(value[: most + 1] if isinstance(value, str) else value)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes; lists in lists without end
        return f"a very large {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 1]}…"
