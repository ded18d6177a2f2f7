"""What the card of an artifact's source says that the model is not for, as text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypedDict

from markdown_it import MarkdownIt
from markdown_it.token import Token

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.core.errors import ArtifactError, PythiaQuantError, SourceError
from pythia_quant.core.foreign_files import own_file, read_ordinary
from pythia_quant.model.source_name import DEMO
from pythia_quant.publishing.base_model import CARD, original_card
from pythia_quant.publishing.foreign_markdown import plain, sections, split

_PART = "Out-of-scope use"
_MOST_BYTES = 5_000_000


class Part(TypedDict):
    """A paragraph, or an item of a list."""

    kind: Literal["paragraph", "item"]
    text: str


class Notice(TypedDict):
    """The notice; `origin` says whose it is, and `missing` what to say if `parts` is empty."""

    parts: list[Part]
    origin: str
    missing: str


def out_of_scope(artifact: Artifact) -> Notice:
    """Return what the card in the artifact quotes of its source's, else what the source's own card says.

    A hub is asked for the source's card if the artifact has none; that it cannot be reached is no error.
    """
    source = artifact.manifest.source
    name = "the demo model" if source.model == DEMO else plain(source.model).rstrip("/").rpartition("/")[2]
    if parts := _parts(_read(artifact.folder)):
        return {"parts": parts, "origin": f"the card of {name}, quoted in the artifact,", "missing": ""}
    try:
        card = original_card(source) if source.commit else _read(Path(source.model))
    except PythiaQuantError:
        missing = f"the card of {name} could not be read when this site was made."
    else:
        if parts := _parts(card):
            return {"parts": parts, "origin": f"the card of {name}", "missing": ""}
        missing = f"{name} has no card that says it."
    advice = "It is a small base model: do not rely on what it writes, and give it to nobody as fact."
    return {"parts": [], "origin": "", "missing": f"{missing} {advice}"}


def _read(folder: Path) -> str | None:
    try:
        path = own_file(folder, CARD, SourceError)
        return read_ordinary(path, _MOST_BYTES, ArtifactError).decode("utf-8", "replace") if path else None
    except (PythiaQuantError, OSError):
        return None


def _parts(card: str | None) -> list[Part]:
    text = sections(split(card).body).get(_PART) if card else None
    return list(_texts(MarkdownIt("commonmark").parse(text + "\n"))) if text else []


def _texts(tokens: list[Token]) -> Iterator[Part]:
    """Yield the paragraphs and items of Markdown as plain text."""
    depth = 0
    for token in tokens:
        depth += {"list_item_open": 1, "list_item_close": -1}.get(token.type, 0)
        if token.type == "inline":
            text = " ".join("".join(map(_words, token.children or [])).split())
            if text:
                yield {"kind": "item" if depth else "paragraph", "text": text}


def _words(token: Token) -> str:
    if token.type in ("softbreak", "hardbreak"):
        return " "
    return token.content if token.type in ("text", "code_inline", "image") else ""
