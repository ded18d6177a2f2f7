"""Keep tokens and presigned addresses out of logs, messages and tracebacks."""

from __future__ import annotations

import logging
import re
import traceback

from pythia_quant.printable import printable

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
