"""Parse YAML files of plain data, and remember the line of every key, so that errors can point at it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic_core import ErrorDetails

from pythia_quant.core.errors import RecipeError, nearest
from pythia_quant.core.foreign_files import read_ordinary
from pythia_quant.core.text import short
from pythia_quant.recipe.choices import formats_at, values_at

Keys = tuple[str | int, ...]

MOST_BYTES = 250_000
"""The largest file that is parsed: a hundred times the longest recipe that ships with the package."""

MOST_LEVELS = 20

_LONGEST_NUMBER = 40
"""The most characters of a number: no setting needs more, and longer ones, in base 60, take long to read."""

_STRING = "tag:yaml.org,2002:str"


def load_located(path: Path) -> tuple[Any, dict[Keys, int]]:
    """Parse a YAML file of plain data: mappings with text as keys, lists, texts, numbers, booleans and nulls.

    Tags, aliases and merge keys are refused before data is built from them: a tag may name any type, and a few aliases
    can stand for more data than memory holds. A date is text.

    Returns:
        The data, and the line of every key, counted from 1. A key is named by the path of keys that leads to it.

    Raises:
        RecipeError: the file cannot be read, is not YAML of plain data, or has a key twice.
    """
    content = read_ordinary(path, MOST_BYTES, RecipeError)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8 text ({error.reason} at byte {error.start})", where=str(path)) from error
    lines: dict[Keys, int] = {}
    loader: _PlainLoader | None = None
    try:
        loader = _PlainLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise RecipeError("is empty", where=str(path))
        _locate(node, (), lines, path)
        return loader.construct_document(node), lines
    except _RefusedError as refused:
        raise RecipeError(refused.what, where=f"{path}:{refused.line}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(f"is not valid YAML: {error.problem}", where=where) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"is not valid YAML: the character {ascii(text[error.position])[1:-1]} is not allowed"
        raise RecipeError(what, where=f"{path}:{line}") from error
    except (ValueError, OverflowError) as error:  # an escape in quotes beyond the last character of Unicode
        line = loader.get_mark().line + 1 if loader else 1
        raise RecipeError(f"is not valid YAML: {error}", where=f"{path}:{line}") from error


def parse_value(text: str, where: str) -> Any:
    """Parse the YAML of a single value that the user wrote; an empty text is None.

    Raises:
        RecipeError: it is not plain data; :func:`load_located` says what that is.
    """
    try:
        return _PlainLoader(text).get_single_data()
    except (yaml.YAMLError, _RefusedError, ValueError, OverflowError) as error:
        hint = "put quotes around it if it is a text"
        raise RecipeError(f"{short(text)} is not a plain value of YAML", where=where, hint=hint) from error


def parse_plain(text: str) -> Any:
    """Parse YAML that the user did not write, such as a hub's; return None if it is not plain data.

    :func:`load_located` says what plain data is.
    """
    try:
        return _PlainLoader(text[:MOST_BYTES]).get_single_data()
    except (yaml.YAMLError, _RefusedError, ValueError, OverflowError):
        return None


class _RefusedError(Exception):
    """The file uses a part of YAML that a recipe may not use."""

    def __init__(self, what: str, mark: Any) -> None:
        super().__init__(what)
        self.what, self.line = what, mark.line + 1


class _PlainLoader(yaml.SafeLoader):
    """Builds plain data, and refuses the rest of YAML."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs have it without types
        if isinstance(event, yaml.AliasEvent):
            raise _RefusedError("aliases (*name) are not part of a recipe; write the values out", event.start_mark)
        if event.tag is not None:
            raise _RefusedError(f"tags such as {short(event.tag)} are no part of a recipe", event.start_mark)
        if self._level == MOST_LEVELS:
            raise _RefusedError(f"more than {MOST_LEVELS} levels are no recipe", event.start_mark)
        self._level += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        if len(node.value) <= _LONGEST_NUMBER:
            try:
                whole = node.tag.endswith(":int")
                number: int | float = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
            except (ValueError, OverflowError):
                pass
            else:
                return number
        raise _RefusedError(f"{short(node.value)} is no number", node.start_mark)

    def construct_text(self, node: yaml.ScalarNode) -> str:
        text = str(node.value)
        hidden = next((sign for sign in text if _is_control(sign)), None)
        if hidden is not None:
            raise _RefusedError(f"a text holds the control character {ascii(hidden)[1:-1]}", node.start_mark)
        return text


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_number)

_PlainLoader.add_constructor("tag:yaml.org,2002:float", _PlainLoader.construct_number)

_PlainLoader.add_constructor(_STRING, _PlainLoader.construct_text)

# Dates, "=" and "<<" are read as text: no setting is a date, and only YAML itself gives the other two a meaning.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _is_control(sign: str) -> bool:
    return (sign < " " and sign not in "\t\n\r") or "\x7f" <= sign <= "\x9f" or "\ud800" <= sign <= "\udfff"


def _locate(node: yaml.Node, keys: Keys, lines: dict[Keys, int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != _STRING:
                what = short(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise RecipeError(f"{what} is no key; a key is text, a number in quotes", where=f"{path}:{line}")
            here = (*keys, str(key.value))
            if here in lines:
                what = f"the key {short(key.value)} stands on line {lines[here]} already"
                raise RecipeError(what, where=f"{path}:{line}")
            lines[here] = line
            _locate(value, here, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*keys, index)] = item.start_mark.line + 1
            _locate(item, (*keys, index), lines, path)


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


def located_error(path: Path, lines: Mapping[Keys, int], details: ErrorDetails, settings: Any) -> RecipeError:
    """Turn one of pydantic's errors into an error that points at a key of the file."""
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
    return error_at(path, lines, cast(Keys, tuple(keys)), _message(details, settings))


def error_at(path: Path, lines: Mapping[Keys, int], keys: Keys, message: str) -> RecipeError:
    """Make an error that points at a key of a file, or at the nearest key above it that the file has."""
    line = next((lines[keys[:length]] for length in range(len(keys), 0, -1) if keys[:length] in lines), 1)
    key = ".".join(_cut(str(part), _LONGEST_KEY) for part in keys)
    message = _cut(message, _LONGEST_MESSAGE)
    return RecipeError(f"{key}: {message}" if key else message, where=f"{path}:{line}")


def _message(details: ErrorDetails, settings: Any) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "literal_error":
        choices = values_at(settings, details["loc"])
        is_quoted = isinstance(value, str) and value in choices
        remedy = "write it without quotes" if is_quoted else nearest(short(value), choices)
        return f"{short(value)} is not possible; {remedy}"
    if kind == "missing":
        return "is required and missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        formats = formats_at(settings, details["loc"])
        tag = str(context.get("tag", ""))
        if not tag:
            return f"say format: one of {', '.join(formats)}"
        return f"{short(tag)} is no format; {nearest(tag[:80], formats)}"
    if kind in _NEEDED:
        wrong = "is of the wrong type" if kind.endswith("_type") else "is not possible"
        return f"{short(value)} {wrong}: {_NEEDED[kind].format(**context)}"
    return details["msg"]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
