"""Text of others, made fit to be shown: no control characters, no tokens, no presigned addresses."""

from __future__ import annotations

import logging
import re
import traceback
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


_SECRETS = (
    (re.compile(r"(?<![A-Za-z0-9])(hf|api)_[A-Za-z0-9_]{8,}"), r"\1_…"),
    (re.compile(r"(?i)((?:authorization|cookie)['\"]?\s*[:=,]\s*(?:b?['\"])?)[^\n'\",)]{6,}"), r"\1…"),
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{6,}"), r"\1\2…"),
    # The query of an address may grant access: the addresses of uploads and downloads are signed in it.
    (re.compile(r"(https?://[^\s?#'\"<>]+)\?[^\s'\"<>]*"), r"\1?…"),
    (re.compile(r"(?i)(x-(?:amz|goog)-[a-z-]*(?:signature|credential|token)[a-z-]*=)[^\s&'\"<>]+"), r"\1…"),
)


def redacted(text: str) -> str:
    """Return `text` without Hugging Face tokens, authorization headers and the queries of addresses."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def redacted_traceback(error: BaseException) -> str:
    """Return the redacted traceback of an exception and of its causes."""
    return redacted("".join(traceback.format_exception(error)))


class Redacting(logging.Filter):
    """A filter that redacts log records and escapes their control characters, tracebacks included."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(redacted(record.getMessage())), ()
        if record.exc_info and record.exc_info[1]:
            trace = redacted_traceback(record.exc_info[1]).rstrip()
            record.exc_text, record.exc_info = printable(trace), None
        return True


def log_everything() -> None:
    """Show all log messages of all libraries, redacted, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    handler.addFilter(Redacting())
    logging.basicConfig(level=logging.DEBUG, handlers=[handler])
    logging.getLogger("huggingface_hub").setLevel(logging.DEBUG)
    logging.getLogger("httpcore2").setLevel(logging.INFO)  # DEBUG would log every step of every connection
