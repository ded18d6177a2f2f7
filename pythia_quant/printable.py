"""Make text from files and hubs safe to show: short, and without characters that control a terminal or reorder text."""

from __future__ import annotations

import logging
import re
import warnings

# C0 and C1 controls except tab and line feed, marks that change the direction of text, line separators, half surrogate
# pairs, and noncharacters, which XML refuses.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return `text` with every control character as an escape such as ``\\x1b``; tabs and line feeds stay."""
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


def without_hidden(text: str) -> str:
    """Return `text` without the characters that :func:`printable` escapes."""
    return _UNSAFE.sub("", text)


def printable_json(text: str) -> str:
    """Return an equivalent JSON text, with every control character as a JSON escape."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class _PrintableRecord(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802 - logging's name
        return printable(super().getMessage())


def log_printable() -> None:
    """Escape control characters in all log messages and warnings of this process: libraries quote files in them."""
    logging.setLogRecordFactory(_PrintableRecord)
    format_warning = warnings.formatwarning
    warnings.formatwarning = lambda *args, **options: printable(format_warning(*args, **options))


def short(value: object, most: int = 80) -> str:
    """Return the `repr` of any value, cut to `most` characters; a value without a `repr` is named by its type."""
    try:
        text = repr(value[: most + 1] if isinstance(value, str) else value)
    except (ValueError, RecursionError):  # an integer with more digits than Python prints; lists nested too deeply
        return f"a very large {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 1]}…"
