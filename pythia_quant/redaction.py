"""Keeps tokens and presigned addresses out of logs, messages and tracebacks."""

from __future__ import annotations

import logging
import re
import traceback

from pythia_quant.printable import printable

_SECRETS = (
    (re.compile(r"(?<![A-Za-z0-9])(hf|api)_[A-Za-z0-9_]{8,}"), r"\1_…"),
    (re.compile(r"(?i)((?:authorization|cookie)['\"]?\s*[:=,]\s*(?:b?['\"])?)[^\n'\",)]{6,}"), r"\1…"),
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{6,}"), r"\1\2…"),
    # The query of an address may be its permission: those of uploads and downloads are signed.
    (re.compile(r"(https?://[^\s?#'\"<>]+)\?[^\s'\"<>]*"), r"\1?…"),
    (re.compile(r"(?i)(x-(?:amz|goog)-[a-z-]*(?:signature|credential|token)[a-z-]*=)[^\s&'\"<>]+"), r"\1…"),
)


def redacted(text: str) -> str:
    """Return `text` without Hugging Face tokens, authorization headers and the queries of addresses."""
    for pattern, without in _SECRETS:
        text = pattern.sub(without, text)
    return text


def redacted_traceback(error: BaseException) -> str:
    """Return an exception's traceback, and those of what led to it, redacted."""
    return redacted("".join(traceback.format_exception(error)))


class Redacting(logging.Filter):
    """Redacts records and escapes their control characters; in what they carry of an exception, too."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(redacted(record.getMessage())), ()
        if record.exc_info and record.exc_info[1]:
            told = redacted_traceback(record.exc_info[1]).rstrip()
            record.exc_text, record.exc_info = printable(told), None
        return True


def log_everything() -> None:
    """Log all that libraries tell, redacted, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    handler.addFilter(Redacting())
    logging.basicConfig(level=logging.DEBUG, handlers=[handler])
    logging.getLogger("huggingface_hub").setLevel(logging.DEBUG)
    logging.getLogger("httpcore2").setLevel(logging.INFO)  # below it, every step of every connection
