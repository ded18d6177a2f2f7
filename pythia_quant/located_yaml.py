"""YAML that remembers on which line each key stands, so that an error can point at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pythia_quant.errors import RecipeError

Keys = tuple[str | int, ...]


def load_located(path: Path) -> tuple[Any, dict[Keys, int]]:
    """Parse a YAML file of plain data; nothing in it is executed.

    Returns:
        The data, and for every key (as the path of keys leading to it) its line, counted from 1.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or says a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError("there is no such file", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot be read ({error})", where=str(path)) from error
    lines: dict[Keys, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise RecipeError("is empty", where=str(path))
        _locate(node, (), lines, path)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(f"is not valid YAML: {error.problem}", where=where) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RecipeError(f"is not valid YAML: {error}", where=str(path)) from error


def _locate(node: yaml.Node, keys: Keys, lines: dict[Keys, int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*keys, str(key.value))
            line = key.start_mark.line + 1
            if here in lines:
                raise RecipeError(f"the key '{key.value}' stands on line {lines[here]} already", where=f"{path}:{line}")
            lines[here] = line
            _locate(value, here, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*keys, index)] = item.start_mark.line + 1
            _locate(item, (*keys, index), lines, path)
