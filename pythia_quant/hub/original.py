"""The card of the original model, as its authors wrote it: front matter, body, and what it says of use and limits."""

from __future__ import annotations

import re
from typing import NamedTuple

from markdown_it import MarkdownIt

from pythia_quant.hub.quoting import plain
from pythia_quant.recipe.yaml_lines import parse_plain

_FRONT = re.compile(r"\A\ufeff?\s*---[ \t]*\n(?:(.*?)\n)??---[ \t]*(?:\n|\Z)", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9][\w./+-]{0,95}", re.ASCII)
_LONGEST, _LONGEST_FRONT = 200_000, 50_000
"""Characters that are read of a card, and of its front matter: more would take minutes to parse."""

PARTS = {
    "Intended use": re.compile(r"(primary )?intended uses?\b"),
    "Out-of-scope use": re.compile(r"out of scope uses?\b"),
    "Limitations and biases": re.compile(r"(limitations?|bias(es)?|risks?)\b"),
}
"""The parts that a card repeats, and how headings that begin them read in lower case without punctuation."""


class Original(NamedTuple):
    """A card in two parts; `front` is YAML, without its fences, and empty where there is none."""

    front: str
    body: str


def split(card: str) -> Original:
    """Return front matter and body of a card."""
    text = plain(card[:_LONGEST])
    found = _FRONT.match(text)
    front, body = (found[1] or "", text[found.end() :]) if found else ("", text)
    return Original(front, body.strip("\n"))


def metadata(front: str) -> dict[str, list[str]]:
    """Return what front matter says, by key: short plain words only, whatever else there is left out."""
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
    """Return those of :data:`PARTS` that a body has, each up to the next heading as high, or of another part."""
    tokens = MarkdownIt("commonmark").parse(body + "\n")
    headings = [
        (int(token.tag[1:]), token.map, _part(tokens[index + 1].content))
        for index, token in enumerate(tokens)
        if token.type == "heading_open" and token.level == 0 and token.map
    ]
    lines = body.split("\n")
    found: dict[str, str] = {}
    for index, (level, (_, begin), part) in enumerate(headings):
        later = headings[index + 1 :]
        end = next((where[0] for other, where, named in later if other <= level or named), len(lines))
        text = "\n".join(lines[begin:end]).strip("\n")
        if part and text.strip():
            found.setdefault(part, text)
    return found


def _part(heading: str) -> str:
    words = " ".join(re.findall(r"\w+", heading.lower()))
    return next((name for name, pattern in PARTS.items() if pattern.match(words)), "")
