"""Text that every CPython carries: the standard library's sources, docstrings of built-in types, pydoc's topics.

The demo model was trained on these documents, except those that a hash of their name holds out. The same rule selects
the evaluation text from the Python that runs the benchmark, so the package ships no text.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from tokenizers import Tokenizer

from pythia_quant.core.files import Cache
from pythia_quant.model.tokenizer import tokenize
from pythia_quant.texts.windows import OVERLAP_LENGTH, encode, shared

HELD_OUT_SHARE = 0.15
_CACHE = Cache("texts", 50_000_000)

# Folders that some builds of CPython do not have, or that hold tables of data rather than text.
_SKIPPED = {
    "__pycache__", "_pyrepl", "dist-packages", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3",
    "pydoc_data", "site-packages", "test", "tests", "tkinter", "turtledemo",
}  # fmt: skip


@dataclass(frozen=True)
class Document:
    """One document of the corpus; its name does not depend on where Python is installed."""

    name: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether the document is not in the demo model's training text; only its name decides that."""
        bucket = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big")
        return bucket < HELD_OUT_SHARE * 2**32


def documents() -> list[Document]:
    """Return this Python's documents, sorted by name. The sources are read, not executed."""
    all_documents = [*_sources(), *_docstrings(), *(Document(f"topics/{name}", text) for name, text in topics.items())]
    return sorted((d for d in all_documents if d.text.strip()), key=lambda d: d.name)


def _sources() -> list[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    sources = []
    for folder, folders, names in os.walk(root):
        # These are not even listed: site-packages may hold many files.
        folders[:] = [name for name in folders if name not in _SKIPPED]
        for path in (Path(folder, name) for name in names if name.endswith(".py")):
            relative = path.relative_to(root)
            if not relative.parts[0].startswith(("config-", "_sysconfigdata")):
                text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
                sources.append(Document(relative.as_posix(), text))
    return sources


def _docstrings() -> list[Document]:
    docstrings = []
    for name, kind in vars(builtins).items():
        if isinstance(kind, type):
            members = (member.__doc__ for member in vars(kind).values() if callable(member))
            parts = dict.fromkeys(doc for doc in (kind.__doc__, *members) if doc)
            docstrings.append(Document(f"builtins/{name}", "\n\n".join(parts)))
    return docstrings


def training_text() -> str:
    """Return the documents that are not held out, joined by blank lines; the demo model was trained on such."""
    return "\n\n".join(d.text for d in documents() if not d.held_out)


def held_out_text(tokenizer: Tokenizer) -> str:
    """Return the held-out documents without the paragraphs that share 13 tokens in a row with the training text.

    The search for these paragraphs takes ten seconds and more, so the text is cached by the content of both texts and
    the tokenizer.

    Args:
        tokenizer: the tokenizer that makes the tokens.
    """
    all_documents = documents()
    training, held_out = ("\n\n".join(d.text for d in all_documents if d.held_out is side) for side in (False, True))
    parts = "\0".join((tokenizer.to_str(), str(OVERLAP_LENGTH), training, held_out))
    key = hashlib.sha256(parts.encode(errors="surrogatepass")).hexdigest()[:32]
    if (content := _CACHE.read(key)) is not None:
        return content.decode()
    text = _without_shared(tokenizer, training, held_out)
    _CACHE.write(key, text.encode())
    return text


def _without_shared(tokenizer: Tokenizer, training_text: str, held_out: str) -> str:
    training, paragraphs = encode(tokenizer, training_text), held_out.split("\n\n")
    while True:
        text = "\n\n".join(paragraphs)
        encoding = tokenize(tokenizer, text)
        overlapping = shared(np.array(encoding.ids, dtype=np.int64), training)
        if not overlapping.any():
            return text
        # A paragraph and the separator after it own the characters from its start to the next one's.
        starts = np.cumsum([0] + [len(p) + 2 for p in paragraphs[:-1]])
        places = np.array(encoding.offsets)[overlapping, 0]
        removed = set((np.searchsorted(starts, places, side="right") - 1).tolist())
        paragraphs = [p for i, p in enumerate(paragraphs) if i not in removed]
