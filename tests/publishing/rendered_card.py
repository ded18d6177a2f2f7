"""Cards rendered, and read back as Markdown."""

from __future__ import annotations

import re
from typing import Any

from card_inputs import results
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pythia_quant.publishing.card import render_card
from pythia_quant.records.manifest import Manifest
from pythia_quant.records.results import Results

ORIGINAL = """\
---
language: [en]
tags: [pytorch, causal-lm]
license: mit
datasets: [EleutherAI/pile]
extra: {nested: [x]}
---

# Pythia

## Uses and Limitations

### Intended Use

Research on *behaviour*.

#### More of it

Also this.

### Out-of-scope use

No products.

## Training

Long.
"""
PARSER = MarkdownIt("commonmark").enable("table")


def card(of: Manifest, run: Results | None = None, original: str | None = ORIGINAL, **options: Any) -> str:
    return render_card(of, run or results(of), repo_id="me/quantized", original=original, **options)


def front(text: str) -> Any:
    return ModelCard(text).data


def tokens(text: str) -> list[Token]:
    def flat(found: list[Token]) -> list[Token]:
        return [inner for token in found for inner in (token, *flat(token.children or []))]

    return flat(PARSER.parse(ModelCard(text).text))


def outline(text: str) -> list[tuple[str, int]]:
    """Return the kinds of all blocks outside of quotations, and how deep each is; but not how long a table is."""
    found, inside = [], 0
    for token in PARSER.parse(ModelCard(text).text):
        inside += {"blockquote_open": 1, "blockquote_close": -1}.get(token.type, 0)
        if not inside and token.type.endswith(("_open", "fence", "html_block", "code_block")):
            found.append((token.type + token.tag, token.level))
    return found


def section(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def only_our_html(found: list[Token]) -> bool:
    """Return whether all HTML is that of parts that unfold: each is opened once and closed once, in turn."""
    html = [token.content.strip() for token in found if token.type.startswith("html")]
    opened = [re.fullmatch(r"<details>\n<summary>[A-Za-z ]+</summary>", content) for content in html[::2]]
    return all(opened) and html[1::2] == ["</details>"] * len(opened)
