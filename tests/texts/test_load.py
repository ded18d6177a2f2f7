"""Texts as people have them in files."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pythia_quant.core.errors import CorpusError
from pythia_quant.texts.load import read_text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[1]\n[2]", "[1]\n[2]"),
        (b'{"a": 1}\nb', '{"a": 1}\nb'),
        ("ä\r\nb".encode(), "ä\r\nb"),
        (b"\xef\xbb\xbfa", "a"),
        ("a\ufeffb".encode(), "a\ufeffb"),
        (b"", ""),
    ],
)
def test_text_is_read_byte_for_byte_but_for_a_byte_order_mark(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    assert read_text(tmp_path / "t.txt") == text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"\xff", "cannot be read as UTF-8"),
        ("t.txt", "text".encode("utf-16"), "is text in UTF-16"),
        ("t.txt", "text".encode("utf-32"), "is text in UTF-32"),
        ("t.txt", "text".encode("utf-16-le"), "holds zero bytes"),
        ("t.gz", gzip.compress(b"text", mtime=0), "is compressed with gzip"),
        ("t.json", b"[]", "is JSON, not text"),
        ("t.txt", b'\n{"text": "a"}\n\n{"text": "b"}\nc', "is JSON, not text"),
        ("t", b'[\n {"text": "a"}\n]\n', "is JSON, not text"),
        ("t.jsonl", b"{", r"t\.jsonl:1: is not JSON"),
        ("t.jsonl", b'{"text": "a"}\n[]', r"t\.jsonl:2: is no row"),
        ("t.jsonl", b'{"txt": "a"}', "no column 'text'\n.*did you mean 'txt'"),
        ("t.jsonl", b'{"text": 5}', "holds int, not text"),
        ("t.jsonl", b'{"text": "\\ud800"}', "is not JSON"),
        ("t.parquet", b"PAR1", r"t\.parquet: has no readable column"),
    ],
)
def test_what_is_no_text_is_said(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_text(tmp_path / name)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    places = {tmp_path: "is a folder", tmp_path / "pipe": "no ordinary file", tmp_path / "missing": "no such file"}
    for path, message in (places | {Path("a\0b"): r"^a\\x00b: there is no such file"}).items():
        with pytest.raises(CorpusError, match=message):
            read_text(path)


def test_rows_of_a_column_are_joined(tmp_path: Path) -> None:
    rows = ["a\n", "", None, "b\u2028"]
    pq.write_table(pa.table({"text": rows, "number": [1, 2, 3, 4]}), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": row}, ensure_ascii=False) for row in rows) + "\n\n")
    for path in (tmp_path / "t.parquet", tmp_path / "t.jsonl"):
        assert read_text(path) == "a\n\n\n\n\n\n\nb\u2028"
        assert read_text(path, join="|") == "a\n|||b\u2028"
        with pytest.raises(CorpusError, match="'page'"):
            read_text(path, "page")
    with pytest.raises(CorpusError, match="holds int, not text"):
        read_text(tmp_path / "t.parquet", "number")
