"""Four kinds of text to measure on, and the draws of calibration windows.

Files come from a folder that is not part of the project; what is not there is left out. Web text serves both: its first
129 parts of 145 are for calibration, the rest is measured on. Python's own text is split by document
(:mod:`pythia_quant.texts.builtin`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from pythia_quant.core.errors import CorpusError
from pythia_quant.records.manifest import CalibrationRecord, TextRecord
from pythia_quant.texts.builtin import held_out_text, training_text
from pythia_quant.texts.load import read_text
from pythia_quant.texts.windows import Tokens, encode, spread_windows, windows

CONTEXT = 512
FILES = {
    "wiki": "eval-wiki.txt",
    "wikitext2": "wikitext-2-raw.test.txt",
    "fiction": "lambada_openai_test.jsonl",
    "web": "calibration-c4.txt",
}
"""The texts to measure on that are files: two encyclopedias, LAMBADA's passages, and web text."""
CODE = "code"
EVALUATION = (*FILES, CODE)

CALIBRATION = {"c4": "calibration-c4.txt", "wiki": "calibration-wiki.txt"}
BUILTIN = "builtin"
"""Calibration on the text that every Python carries, which is also the demo model's training text."""

WEB_FOR_CALIBRATION = 129 / 145
"""The share of the web text that is for calibration: in the Pythia tokenizer, 129 of its 145 windows of 512."""
DRAWS = 3


@dataclass(frozen=True)
class Texts:
    """Where the texts are.

    Attributes:
        folder: holds the files by their names above; None if there is none.
        files: other files, by the kind of text; they take the place of those.
    """

    folder: Path | None
    files: Mapping[str, Path]

    def missing(self) -> list[str]:
        """Return the kinds of text, and calibration texts, that are not there."""
        return [kind for kind in (*FILES, *CALIBRATION) if self._file(kind) is None]

    def evaluation(self, tokenizer: Tokenizer, count: int) -> dict[str, Tokens]:
        """Return `count` windows of each text that is there, spread evenly over it, int64 [count, 512] each."""
        found = {}
        for kind in EVALUATION:
            if kind == CODE:
                tokens = encode(tokenizer, held_out_text(tokenizer))
            elif file := self._file(kind):
                tokens = encode(tokenizer, read_text(file))
                if file == self._file("c4"):
                    tokens = tokens[int(len(tokens) * WEB_FOR_CALIBRATION) :]
            else:
                continue
            found[kind] = spread_windows(tokens, CONTEXT, count)
        return found

    def calibration(self, tokenizer: Tokenizer, kind: str, count: int, draw: int) -> tuple[Tokens, CalibrationRecord]:
        """Draw calibration windows.

        Each draw cuts the text at other places: it leaves out `draw` thirds of a window at the beginning. Then it takes
        windows at random. So two draws of 8 windows share next to nothing, while draws of 128 windows of the web text
        share nearly all of its tokens, but in other windows.

        Args:
            tokenizer: makes the tokens.
            kind: ``c4``, ``wiki`` or ``builtin``.
            count: windows of 512 tokens.
            draw: 0, 1 or 2.

        Returns:
            int64 [count, 512], and what a manifest records of them.

        Raises:
            CorpusError: the text is missing or too short.
        """
        if kind == BUILTIN:
            text = training_text()
        elif file := self._file(kind):
            text = read_text(file)
        else:
            raise CorpusError(
                "the calibration text is missing", where=kind, hint="name it: --text KIND=FILE, or --shared"
            )
        tokens = encode(tokenizer, text)
        if self._file(kind) == self._file("web") is not None:
            tokens = tokens[: int(len(tokens) * WEB_FOR_CALIBRATION)]
        rows = windows(tokens[CONTEXT * draw // DRAWS :], CONTEXT)
        if len(rows) < count:
            raise CorpusError(f"has {len(rows)} windows of {CONTEXT} tokens, {count} are asked for", where=kind)
        chosen = np.sort(np.random.default_rng(draw).permutation(len(rows))[:count])
        content = text.encode()
        record = TextRecord(name=kind, sha256=sha256(content).hexdigest(), tokens=len(tokens), bytes=len(content))
        return rows[chosen], CalibrationRecord(text=record, windows=count, context=CONTEXT, seed=draw)

    def _file(self, kind: str) -> Path | None:
        if kind in self.files:
            return self.files[kind]
        name = {**FILES, **CALIBRATION}.get(kind)
        file = self.folder / name if self.folder and name else None
        return file if file and file.is_file() else None
