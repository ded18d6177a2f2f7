"""Load the text that a recipe names: a built-in one, or a file of plain text, JSON lines or parquet.

Files of other kinds are refused, and the message says what they are.
"""

from __future__ import annotations

import codecs
import json
import platform
from collections.abc import Iterable
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pythia_quant.core.errors import CorpusError, nearest
from pythia_quant.core.foreign_files import parse_json
from pythia_quant.core.hub_files import fetch
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.core.text import printable
from pythia_quant.recipe.recipe import TextSettings
from pythia_quant.texts.builtin import held_out_text, training_text
from pythia_quant.texts.windows import Text

_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
"""The encodings by the marks at the beginning of a file. UTF-32 comes first: its mark begins as UTF-16's does."""

_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

_ROWS = (".jsonl", ".ndjson", ".jsonlines")

_HINT = "give UTF-8 text, JSON lines (.jsonl) or parquet (.parquet)"


def read_text(path: Path, column: str = "text", join: str = "\n\n") -> str:
    """Read a text. The file's ending says its kind; JSON in a file of another ending is refused.

    Args:
        path: the file.
        column: the column that holds the text in JSON lines and parquet files.
        join: the characters between rows of that column.

    Raises:
        CorpusError: the file is missing, of another kind or damaged, or has no such column.
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        _check_file(path)
        return join.join(_texts(_parquet_rows(path, column), column, path))
    if ending in _ROWS:
        lines = enumerate(read_utf8(path).split("\n"), 1)
        return join.join(_json_row(line, column, f"{path}:{number}") for number, line in lines if line.strip())
    text = read_utf8(path)
    if ending == ".json" or _is_json(text):
        raise CorpusError("is JSON, not text", where=str(path), hint=_HINT)
    return text


def read_utf8(path: Path) -> str:
    """Read a UTF-8 file with its line ends unchanged; a byte order mark is not part of the text.

    Raises:
        CorpusError: the file is missing, not an ordinary file, or not UTF-8.
    """
    _check_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot be read ({error.strerror})", where=str(path)) from error
    for marks, what in ((_ENCODINGS, "is text in {}"), (_PACKED, "is compressed with {}")):
        if kind := next((kind for mark, kind in marks.items() if content.startswith(mark)), None):
            hint = "convert it to UTF-8" if marks is _ENCODINGS else f"unpack it first; {_HINT}"
            raise CorpusError(what.format(kind), where=str(path), hint=hint)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"cannot be read as UTF-8 text ({error})", where=str(path), hint=_HINT) from error
    if "\0" in text:
        raise CorpusError("is not text: it holds zero bytes", where=str(path), hint=_HINT)
    return text


def _is_json(text: str) -> bool:
    """Say whether a text is one JSON value, or rows of JSON, of which the first two decide."""
    rows = list(islice(filter(str.strip, StringIO(text, newline="\n")), 2))
    return _parses(text, "{[") or (bool(rows) and all(_parses(row, "{") for row in rows))


def _parses(text: str, begins: str) -> bool:
    if not text.lstrip().startswith(tuple(begins)):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _check_file(path: Path) -> None:
    """Refuse a path that is no ordinary file: a pipe can be read only once, and a text is read again for its hash."""
    if path.is_file():
        return
    what = "is a folder" if path.is_dir() else "is no ordinary file" if path.exists() else "there is no such file"
    hint = "correct the recipe, or name the file with --text, --calibration or --lambada"
    raise CorpusError(what, where=printable(str(path)), hint=hint if what.startswith("there") else _HINT)


def _json_row(line: str, column: str, where: str) -> str:
    row = parse_json(line.encode(), where, CorpusError, _HINT)
    if not isinstance(row, dict):
        raise CorpusError("is no row: a JSON object", where=where, hint=_HINT)
    if column not in row:
        hint = f"column: in the recipe names another; {nearest(column, map(str, row))}" if row else _HINT
        raise CorpusError(f"the row has no column {column!r}", where=where, hint=hint)
    return next(iter(_texts([row[column]], column, where)))


def _parquet_rows(path: Path, column: str) -> list[Any]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CorpusError(
            "a parquet file needs pyarrow, not installed here",
            where=str(path),
            hint="pip install pyarrow",
        ) from error
    try:
        rows: list[Any] = parquet.read_table(path, columns=[column]).column(column).to_pylist()
    except (ArrowException, OSError, KeyError, ValueError, OverflowError) as error:  # text that is not UTF-8, too
        raise CorpusError(f"has no readable column {column!r}", where=str(path)) from error
    return rows


def _texts(rows: Iterable[Any], column: str, where: Path | str) -> Iterable[str]:
    """Yield the rows, which must be text; a missing one is yielded as an empty text."""
    for row in rows:
        if row is not None and not isinstance(row, str):
            raise CorpusError(f"column {column!r} holds {type(row).__name__}, not text", where=str(where), hint=_HINT)
        yield row or ""


def load_text(settings: TextSettings, tokenizer: Tokenizer, progress: Progress = SILENT) -> Text:
    """Load the text that a recipe names.

    Args:
        settings: the recipe's settings of the text.
        tokenizer: makes the tokens by which the built-in held-out text is compared with the training text.
        progress: receives how much of a download has come.

    Raises:
        CorpusError: the text is missing, or is not text.
        SourceError: the text cannot be fetched from the hub.
    """
    if settings.builtin:
        content = training_text() if settings.builtin == "training" else held_out_text(tokenizer)
        return Text(f"Python {platform.python_version()} standard library, {settings.builtin} documents", content)
    assert settings.file is not None  # noqa: S101 - TextSettings guarantees one of the two
    name, path = settings.file, Path(settings.file)
    if settings.dataset is not None:
        cached = fetch(settings.dataset, settings.file, settings.revision, "dataset", progress)
        if cached is None:
            raise CorpusError(f"has no file {settings.file}", where=f"dataset {settings.dataset}@{settings.revision}")
        name, path = f"{settings.dataset} {settings.file}", cached
    return Text(name, read_text(path, settings.column, settings.join))
