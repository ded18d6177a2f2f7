"""Read JSON that somebody else may have written: within limits, and with one clear error when it cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pythia_quant.errors import PythiaQuantError
from pythia_quant.ordinary_file import read_ordinary

MOST_BYTES = 500_000_000
"""Larger files are refused without reading them. The index of the largest model is a hundred times smaller."""


def read_json(path: Path, kind: type[PythiaQuantError], hint: str = "") -> Any:
    """Read a JSON file.

    Args:
        path: an ordinary file: a pipe would never end.
        kind: the class of the error to raise.
        hint: what the user can do when the file cannot be read.

    Raises:
        PythiaQuantError: of class `kind`; the file is missing, too large, no JSON, nested too deeply, or no valid text.
    """
    content = read_ordinary(path, MOST_BYTES, kind, hint)
    return parse_json(content, str(path), kind, hint)


def parse_json(content: bytes, where: str, kind: type[PythiaQuantError], hint: str = "") -> Any:
    """Parse JSON; see :func:`read_json`."""
    try:
        text = content.decode("utf-8-sig")  # json.loads(bytes) would let half surrogate pairs pass
        data = json.loads(text)
        if "\\u" in text:
            json.dumps(data, ensure_ascii=False).encode()  # raises for half surrogate pairs written as escapes
    except RecursionError as error:
        raise kind("is nested too deeply", where=where, hint=hint) from error
    except ValueError as error:
        raise kind(f"is not JSON ({error})", where=where, hint=hint) from error
    return data


def read_object(path: Path, kind: type[PythiaQuantError], hint: str = "") -> dict[str, Any]:
    """Read a JSON file that holds an object; see :func:`read_json`."""
    data = read_json(path, kind, hint)
    if not isinstance(data, dict):
        raise kind("is not a JSON object", where=str(path), hint=hint)
    return data
