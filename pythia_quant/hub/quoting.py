"""Text of others as Markdown that stays where it is put: quoted, in a fence, or within a line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

from pythia_quant.core.text import without_hidden

_PARSER = MarkdownIt("commonmark").enable("table")
_DEEP = 15
"""The parser reads nothing below 20 levels; other parsers might."""
_ROUNDS = 10


def quoted(markdown: str) -> str:
    """Return Markdown as a block quote that ends where the text does and in which HTML is shown, not obeyed."""
    lines = plain(markdown).expandtabs(4).split("\n")
    for _ in range(_ROUNDS):
        # Without its last line feed, markdown-it-py 4.3 reads past the end of some texts.
        tokens = list(_flat(_PARSER.parse(_as_quote(lines) + "\n")))
        if any(token.level >= _DEEP for token in tokens):
            break
        found = {line for token in tokens if _is_html(token) and token.map for line in range(*token.map)}
        if not found:
            return _as_quote(lines)
        lines = [_inert(line) if number in found else line for number, line in enumerate(lines)]
    return _as_quote([_inert(line) for line in lines])


def fenced(text: str, language: str = "") -> str:
    """Return text as a fenced block, which nothing in it can close."""
    content = plain(text).removesuffix("\n")
    fence = "`" * max(3, _longest_run(content) + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def code(text: str) -> str:
    """Return text as code within a line; line breaks become spaces."""
    content = " ".join(plain(text).split())
    if not content:
        return ""
    ticks = "`" * (_longest_run(content) + 1)
    return f"{ticks} {content} {ticks}" if content[0] == "`" or content[-1] == "`" else f"{ticks}{content}{ticks}"


def plain(text: str) -> str:
    """Return text without control characters, marks that reorder it, and lone surrogates; lines end in a line feed."""
    return without_hidden(re.sub(r"\r\n?|[\x85\u2028\u2029]", "\n", text))


def _as_quote(lines: list[str]) -> str:
    return "\n".join(f"> {line}" if line.strip() else ">" for line in lines)


def _inert(line: str) -> str:
    return line.replace("<", "&lt;")


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _flat(tokens: list[Token]) -> Iterator[Token]:
    """Yield all tokens; those within a line with the lines of the block that holds them."""
    for token in tokens:
        yield token
        for child in _flat(token.children or []):
            child.map = token.map
            yield child


def _is_html(token: Token) -> bool:
    return token.type in ("html_block", "html_inline")
