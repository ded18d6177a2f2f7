"""Text that comes in parts is the text that comes at once, and no part ends within a character or a stop string."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import byte_tokenizer
from tokenizers import Tokenizer

import pythia_quant
from pythia_quant.model.text_stream import Detokenizer, StopStrings

DEMO = Tokenizer.from_file(str(Path(pythia_quant.__file__).parent / "model/demo/tokenizer.json"))
BYTES = byte_tokenizer()


def parts(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.feed(token) for token in tokens), detokenizer.finish()]


@settings(deadline=None)
@given(st.lists(st.integers(0, 256), max_size=40) | st.text(max_size=20).map(lambda text: BYTES.encode(text).ids))
def test_parts_are_the_decoded_text_whatever_the_bytes(tokens: list[int]) -> None:
    assert "".join(parts(BYTES, tokens)) == BYTES.decode(tokens)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4095), max_size=40))
def test_parts_are_the_decoded_text_of_a_real_tokenizer(tokens: list[int]) -> None:
    assert "".join(parts(DEMO, tokens)) == DEMO.decode(tokens)


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=20))
def test_no_part_holds_half_a_character(text: str) -> None:
    given_parts = parts(BYTES, BYTES.encode(text).ids)
    assert "".join(given_parts) == text
    assert not any("\ufffd" in part for part in given_parts)
    assert given_parts[-1] == ""


def test_text_comes_as_soon_as_it_is_complete() -> None:
    assert parts(BYTES, BYTES.encode("aé😀b").ids) == ["a", "", "é", "", "", "", "😀", "b", ""]
    cut = BYTES.encode("a😀").ids[:-1]
    assert parts(BYTES, cut) == ["a", "", "", "", "\ufffd"]


def fed(stops: list[str], text: list[str]) -> tuple[str, bool]:
    finder = StopStrings(stops)
    shown = "".join(finder.feed(part) for part in text) + finder.finish()
    return shown, finder.found


@settings(deadline=None)
@given(st.lists(st.text("ab", max_size=4), max_size=4), st.lists(st.text("ab", max_size=5), max_size=8))
def test_the_cut_does_not_depend_on_the_parts(stops: list[str], text: list[str]) -> None:
    whole = "".join(text)
    named = [stop for stop in stops if stop]
    ends = [end for end in range(len(whole) + 1) if any(whole[:end].endswith(stop) for stop in named)]
    if ends:
        longest = max((stop for stop in named if whole[: ends[0]].endswith(stop)), key=len)
        assert fed(stops, text) == (whole[: ends[0] - len(longest)], True)
    else:
        assert fed(stops, text) == (whole, False)


@pytest.mark.parametrize(
    ("stops", "text", "shown"),
    [
        (["\n\n"], ["a\n", "\nb"], ["a", ""]),
        (["abc"], ["ab", "ab", "d"], ["", "ab", "abd"]),
        (["END", "x"], ["E", "N", "x"], ["", "", "EN"]),
    ],
)
def test_text_is_held_back_only_while_it_may_begin_a_stop_string(
    stops: list[str], text: list[str], shown: list[str]
) -> None:
    finder = StopStrings(stops)
    assert [finder.feed(part) for part in text] == shown
