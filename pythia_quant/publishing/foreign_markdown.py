"""Put text of others into Markdown so that it cannot change what follows: as a quotation, fence or code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

from pythia_quant.core.text import without_hidden
from pythia_quant.recipe.yaml_lines import parse_plain

_PARSER = MarkdownIt("commonmark").enable("table")

_DEEP = 15
"""The most levels of nesting. Our parser reads nothing below 20 levels, and other parsers might."""

_ROUNDS = 10
"""The most times that a text is parsed to find HTML."""


def quoted(markdown: str) -> str:
    """Return Markdown as a block quotation that nothing in it can end, and in which HTML is shown as text."""
    lines = plain(markdown).expandtabs(4).split("\n")
    for _ in range(_ROUNDS):
        # Without a line feed at the end, markdown-it-py 4.3 reads past the end of some texts.
        tokens = list(_flat(_PARSER.parse(_as_quote(lines) + "\n")))
        if any(token.level >= _DEEP for token in tokens):
            break
        html_lines = {line for token in tokens if _is_html(token) and token.map for line in range(*token.map)}
        if not html_lines:
            return _as_quote(lines)
        lines = [_inert(line) if number in html_lines else line for number, line in enumerate(lines)]
    return _as_quote([_inert(line) for line in lines])


def fenced(text: str, language: str = "") -> str:
    """Return text as a fenced block that nothing in the text can close."""
    content = plain(text).removesuffix("\n")
    fence = "`" * max(3, _longest_run(content) + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def code(text: str) -> str:
    """Return text as code within a line, with spaces in place of line breaks."""
    content = " ".join(plain(text).split())
    if not content:
        return ""
    ticks = "`" * (_longest_run(content) + 1)
    return f"{ticks} {content} {ticks}" if content[0] == "`" or content[-1] == "`" else f"{ticks}{content}{ticks}"


def plain(text: str) -> str:
    """Return text without control characters, without marks that reorder it, and without lone surrogates.

    Every line ends in a line feed.
    """
    return without_hidden(re.sub(r"\r\n?|[\x85\u2028\u2029]", "\n", text))


def _as_quote(lines: list[str]) -> str:
    return "\n".join(f"> {line}" if line.strip() else ">" for line in lines)


def _inert(line: str) -> str:
    return line.replace("<", "&lt;")


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _flat(tokens: list[Token]) -> Iterator[Token]:
    """Yield all tokens. A token within a line gets the line numbers of its block."""
    for token in tokens:
        yield token
        for child in _flat(token.children or []):
            child.map = token.map
            yield child


def _is_html(token: Token) -> bool:
    return token.type in ("html_block", "html_inline")


_FRONT = re.compile(r"\A\ufeff?\s*---[ \t]*\n(?:(.*?)\n)??---[ \t]*(?:\n|\Z)", re.DOTALL)

_PLAIN = re.compile(r"[A-Za-z0-9][\w./+-]{0,95}", re.ASCII)

_LONGEST, _LONGEST_FRONT = 200_000, 50_000
"""The most characters that are read of a card, and of its front matter. More could take minutes to parse."""

PARTS = {
    "Intended use": re.compile(r"(primary )?intended uses?\b"),
    "Out-of-scope use": re.compile(r"out of scope uses?\b"),
    "Limitations and biases": re.compile(r"(limitations?|bias(es)?|risks?)\b"),
}
"""The parts of a source's card that ours quotes, each with the pattern of its heading, without case and punctuation."""


class Original(NamedTuple):
    """A card in two parts. `front` is the YAML of its front matter, empty if there is none; `body` is Markdown."""

    front: str
    body: str


def split(card: str) -> Original:
    """Split a card into front matter and body."""
    text = plain(card[:_LONGEST])
    match = _FRONT.match(text)
    front, body = (match[1] or "", text[match.end() :]) if match else ("", text)
    return Original(front, body.strip("\n"))


def metadata(front: str) -> dict[str, list[str]]:
    """Return the values of front matter by key. Values that are not short plain words are left out."""
    data = parse_plain(front[:_LONGEST_FRONT])
    if not isinstance(data, dict):
        return {}
    listed = {key: value if isinstance(value, list) else [value] for key, value in data.items()}
    return {
        key: words
        for key, values in listed.items()
        if isinstance(key, str)
        and (words := [value for value in values if isinstance(value, str) and _PLAIN.fullmatch(value)])
    }


def sections(body: str) -> dict[str, str]:
    """Return the :data:`PARTS` of a body. A part ends before a heading of its level or above, or of another part."""
    tokens = MarkdownIt("commonmark").parse(body + "\n")
    headings = [
        (int(token.tag[1:]), token.map, _part(tokens[index + 1].content))
        for index, token in enumerate(tokens)
        if token.type == "heading_open" and token.level == 0 and token.map
    ]
    lines = body.split("\n")
    parts: dict[str, str] = {}
    for index, (level, (_, begin), part) in enumerate(headings):
        later = headings[index + 1 :]
        end = next((where[0] for other, where, named in later if other <= level or named), len(lines))
        text = "\n".join(lines[begin:end]).strip("\n")
        if part and text.strip():
            parts.setdefault(part, text)
    return parts


def _part(heading: str) -> str:
    words = " ".join(re.findall(r"\w+", heading.lower()))
    return next((name for name, pattern in PARTS.items() if pattern.match(words)), "")
