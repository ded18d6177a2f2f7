"""Say what is wrong with a recipe in its author's words: file, line, key, value, and the values that are possible."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic_core import ErrorDetails

from pythia_quant.core.errors import RecipeError, nearest
from pythia_quant.core.text import short
from pythia_quant.located_yaml import Keys

_NEEDED = {
    "model_type": "keys with values are needed", "model_attributes_type": "keys with values are needed",
    "dict_type": "keys with values are needed", "list_type": "a list is needed", "string_type": "text is needed",
    "int_type": "a whole number is needed", "float_type": "a number is needed", "bool_type": "say true or false",
    "int_from_float": "a whole number is needed", "finite_number": "a finite number is needed",
    "greater_than": "more than {gt} is needed", "greater_than_equal": "{ge} is the least",
    "less_than": "less than {lt} is needed", "less_than_equal": "{le} is the most",
    "too_short": "at least {min_length} are needed", "too_long": "{max_length} are the most",
    "string_too_short": "it must not be empty",
}  # fmt: skip
_LONGEST_KEY, _LONGEST_MESSAGE = 80, 500


def located_error(path: Path, lines: Mapping[Keys, int], details: ErrorDetails) -> RecipeError:
    """Turn any of pydantic's errors into one that points at a key of the file."""
    context = details.get("ctx", {})
    # pydantic adds the chosen format to the path of a variant's settings; the file has no such key.
    keys: list[Any] = list(details["loc"])
    if keys[:1] == ["variants"] and len(keys) > 2:
        del keys[2]
    keys += context.get("keys", ())
    keys += [context[name] for name in ("under", "key") if name in context]
    kind = details["type"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        keys.append("format")
    return error_at(path, lines, cast(Keys, tuple(keys)), _message(kind, details, context))


def error_at(path: Path, lines: Mapping[Keys, int], keys: Keys, message: str) -> RecipeError:
    """Make an error that points at a key of a file, or at the nearest key above it that the file has."""
    line = next((lines[keys[:length]] for length in range(len(keys), 0, -1) if keys[:length] in lines), 1)
    key = ".".join(_cut(str(part), _LONGEST_KEY) for part in keys)
    message = _cut(message, _LONGEST_MESSAGE)
    return RecipeError(f"{key}: {message}" if key else message, where=f"{path}:{line}")


def _message(kind: str, details: ErrorDetails, context: Mapping[str, Any]) -> str:
    value = details["input"]
    if kind == "literal_error":
        choices = [choice.strip("'") for choice in str(context["expected"]).replace(" or ", ", ").split(", ")]
        is_quoted = isinstance(value, str) and value in choices
        remedy = "write it without quotes" if is_quoted else nearest(short(value), choices)
        return f"{short(value)} is not possible; {remedy}"
    if kind == "missing":
        return "is required and missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = [tag.strip("' ") for tag in str(context.get("expected_tags", "'bnb', 'gptq', 'onnx'")).split(",")]
        tag = str(context.get("tag", ""))
        return (
            f"{short(tag)} is no format; {nearest(tag[:80], tags)}" if tag else f"say format: one of {', '.join(tags)}"
        )
    if kind in _NEEDED:
        wrong = "is of the wrong type" if kind.endswith("_type") else "is not possible"
        return f"{short(value)} {wrong}: {_NEEDED[kind].format(**context)}"
    return details["msg"]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
