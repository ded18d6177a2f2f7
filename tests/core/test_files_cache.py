import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny import byte_tokenizer
from tokenizers import Tokenizer

from pythia_quant.core.files import Cache, cache_folder
from pythia_quant.model.tokenizer import tokenize
from pythia_quant.texts import windows
from pythia_quant.texts.windows import encode


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHIA_QUANT_CACHE", str(tmp_path))


def test_an_entry_is_read_as_it_was_written_and_a_damaged_one_is_none() -> None:
    cache = Cache("tokens", 1000)
    assert cache.read("a") is None
    cache.write("a", b"content")
    cache.write("b", b"")
    assert cache.read("a") == b"content"
    assert cache.read("b") == b""
    path = cache_folder("tokens") / "a"
    stored = path.read_bytes()
    for damaged in (stored[:-1], stored.replace(b"con", b"CON"), stored + b"x", b"", stored[:10]):
        path.write_bytes(damaged)
        assert cache.read("a") is None, damaged
    cache.write("a", b"content")
    assert path.read_bytes() == stored


def test_above_the_limit_the_entries_go_that_were_read_the_longest_ago() -> None:
    cache = Cache("tokens", 500)
    for place, key in enumerate("abc"):
        cache.write(key, bytes(80))
        os.utime(cache_folder("tokens") / key, (1000 + place, 1000 + place))
    assert cache.read("a") == bytes(80)
    cache.write("d", bytes(80))
    assert {one.name for one in cache_folder("tokens").iterdir()} == {"a", "c", "d"}
    cache.write("e", bytes(501))
    assert cache.read("e") is None, "larger than all may be together"


def test_what_a_killed_process_has_half_written_goes_with_the_next_entry() -> None:
    cache = Cache("tokens", 1000)
    cache.write("a", b"content")
    (cache_folder("tokens") / "partial-abc").write_bytes(b"half")
    (cache_folder("tokens") / ".lock").touch()
    cache.write("b", b"more")
    assert {one.name for one in cache_folder("tokens").iterdir()} == {"a", "b"}


def test_without_a_place_for_it_there_is_no_cache_and_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYTHIA_QUANT_CACHE", str(tmp_path / "file"))
    cache = Cache("tokens", 1000)
    cache.write("a", b"content")
    assert cache.read("a") is None


def test_readers_see_all_of_an_entry_while_others_replace_it() -> None:
    cache = Cache("tokens", 10_000_000)
    contents = [bytes([number]) * 200_000 for number in range(4)]
    cache.write("a", contents[0])

    def replace(number: int) -> None:
        for _ in range(20):
            cache.write("a", contents[number])

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(replace, number) for number in range(4)]
        while not all(writer.done() for writer in writers):
            assert cache.read("a") in contents
    for writer in writers:
        writer.result()
    assert [one.name for one in cache_folder("tokens").iterdir()] == ["a"], "nothing is left half-written"


def test_a_long_text_is_tokenized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_LEAST_CHARACTERS", 10)
    calls = []

    def counted(tokenizer: Tokenizer, text: str) -> object:
        calls.append(text)
        return tokenize(tokenizer, text)

    monkeypatch.setattr(windows, "tokenize", counted)
    tokenizer, text = byte_tokenizer(), "Grüße an 東京, twice over"
    right = np.array(tokenizer.encode(text, add_special_tokens=False).ids)
    for _ in range(2):
        tokens = encode(tokenizer, text)
        assert tokens.dtype == np.int64
        assert (tokens == right).all()
        tokens[0] = 0  # a user may do so: it is his own
    assert len(calls) == 1
    encode(tokenizer, text + "!")
    assert len(calls) == 2, "another text"
    other = byte_tokenizer()
    other.add_tokens(["twice"])
    assert len(encode(other, text)) < len(right)
    assert len(calls) == 3, "another tokenizer"
    for entry in cache_folder("tokens").iterdir():
        entry.write_bytes(entry.read_bytes()[:-4])
    assert (encode(tokenizer, text) == right).all(), "what was damaged is made again"
    assert len(calls) == 4
    assert (encode(tokenizer, text) == right).all()
    assert len(calls) == 4
