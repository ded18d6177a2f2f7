from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pythia_quant.publishing.foreign_markdown import code, fenced, plain, quoted

FRAGMENTS = st.sampled_from([
    "</blockquote>", "<!--", "-->", "<script>alert(1)</script>", "<div\n", "<a href='x'>", "<?php", "<![CDATA[",
    "<pre>", "<https://example.org>", "`", "```", "````", "~~~", "```python\n", "---", "---\n", "===", "\n===\n", "# ",
    "- ", "1. ", "> ", ">", "    ", "\t", "  \n", "\n", "\n\n", "\r", "\r\n", "\u2028", "\x0b", "\x0c", "\x1c", "\x85",
    "\0", "\u202e", "[x]: http://example.org\n", "[x]", "[^1]: note", "![i](http://example.org)",
    "](javascript:alert(1))", "| a | b |\n|---|---|\n| c | d |\n", "\\", "*", "_", "&lt;script>", "&#60;b>", "word",
    "{{ x }}", "\ud800", "<", "</",
])  # fmt: skip
TEXTS = st.lists(FRAGMENTS | st.text(max_size=6), max_size=14).map("".join)
PARSER = MarkdownIt("commonmark").enable("table")


def flat(tokens: list[Token]) -> list[Token]:
    return [inner for token in tokens for inner in (token, *flat(token.children or []))]


def between(block: str) -> list[Token]:
    """Parse a block between two paragraphs, which must be there, outside of it; return the tokens between."""
    tokens = PARSER.parse(f"before\n\n{block}\n\nafter")
    for part, word in ((tokens[:3], "before"), (tokens[-3:], "after")):
        assert [(token.type, token.level) for token in part] == [
            ("paragraph_open", 0), ("inline", 1), ("paragraph_close", 0),
        ]  # fmt: skip
        assert part[1].content == word
    return tokens[3:-3]


@given(TEXTS)
@example("")
@example("text\n</blockquote>\n<script>")
@example("[before]: http://example.org\n[after]: http://example.org")
@example("- a\n\n      <b>\n<i>")
@example("`<b>` and\n<b>")
@example("<div>\n\n<div>\n\n<!--")
@example(">" * 40 + "<b>")
@example("<b>" * 40)
@example("- <!--x\n")
def test_a_quotation_ends_where_it_ends_and_holds_no_html(text: str) -> None:
    tokens = between(quoted(text))
    assert (tokens[0].type, tokens[-1].type) == ("blockquote_open", "blockquote_close")
    assert all(token.level > 0 for token in tokens[1:-1])
    assert not [token for token in flat(tokens) if token.type.startswith("html")]


@given(TEXTS)
@example("```\n`````")
@example("\n")
def test_a_fence_holds_exactly_the_text(text: str) -> None:
    (token,) = between(fenced(text, "yaml"))
    assert (token.type, token.info) == ("fence", "yaml")
    assert token.content == plain(text).removesuffix("\n") + "\n"


@given(TEXTS)
@example("` `` ```")
def test_code_in_a_line_is_all_code(text: str) -> None:
    tokens = between(f"x {code(text)} y")
    words = " ".join(plain(text).split())
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert [child.content for child in tokens[1].children or [] if child.type == "code_inline"] == [words] * bool(words)


def test_what_is_too_deep_for_the_parser_is_no_html_either() -> None:
    assert "<" not in quoted(">" * 40 + "<b>")


def test_markdown_stays_markdown() -> None:
    text = "# Title\n\n- **one**\n\n```python\nx < 1\n```\n\n| a |\n|---|\n| b |\n\n<b>bold</b>"
    tokens = PARSER.parse(quoted(text))
    kinds = {token.type for token in flat(tokens)}
    assert {"heading_open", "bullet_list_open", "strong_open", "fence", "table_open"} <= kinds
    assert next(token.content for token in tokens if token.type == "fence") == "x < 1\n"
    assert "<p>&lt;b&gt;bold&lt;/b&gt;</p>" in PARSER.render(quoted(text))


@pytest.mark.parametrize("sign", ["\0", "\x1b", "\x85", "\u202e", "\u2066", "\u2069", "\u200f", "\ud800"])
def test_signs_that_are_not_seen_are_removed(sign: str) -> None:
    assert plain(f"a{sign}b") in ("ab", "a\nb")
    assert plain("ä€\t\u200d\n") == "ä€\t\u200d\n"
