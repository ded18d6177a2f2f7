"""The search text and the selection text: neither is the evaluation text, and they have nothing in common."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.core.errors import CorpusError
from pythia_quant.core.progress import Progress
from pythia_quant.recipe.recipe import TextSettings
from pythia_quant.records.manifest import TextRecord
from pythia_quant.texts.load import load_text
from pythia_quant.texts.windows import Text, Tokens, encode, shared, spread_windows, undrawn_windows, windows

LEAST = 8
"""The fewest windows of a text: as many as an interval has batches."""


@dataclass(frozen=True)
class TextChoice:
    """Where search and selection text come from; by default, they are what is left of the calibration text.

    Attributes:
        search: the file of the search text.
        selection: the files of the selection text, each of which gives an equal part; none for what calibration left.
        search_windows: windows of the search text.
        selection_windows: windows of the selection text.
    """

    search: Path | None = None
    selection: tuple[Path, ...] = ()
    search_windows: int = 16
    selection_windows: int = 64


@dataclass(frozen=True)
class Part:
    """Windows of one text.

    Attributes:
        record: the text.
        windows: int64 [windows, context].
    """

    record: TextRecord
    windows: Tokens

    @property
    def digest(self) -> str:
        """Return a hash of the windows."""
        return hashlib.sha256(self.windows.tobytes()).hexdigest()[:16]


def search_and_selection(inputs: Inputs, choice: TextChoice, progress: Progress) -> tuple[Part, Part]:
    """Return the windows of the search text and of the selection text.

    No window shares 13 tokens in a row with the evaluation text, nor one of the selection text with the search text.
    Of the calibration text, the first half of the windows that calibration has not drawn are searched on, the second
    half select.

    Args:
        inputs: the recipe with its source and texts.
        choice: where the texts come from.
        progress: receives what the user should know.

    Raises:
        CorpusError: a text is missing, or too short.
    """
    context = inputs.evaluation.shape[1]
    evaluation = inputs.evaluation.reshape(-1)
    search: tuple[TextRecord, Tokens] | None = None
    selection: tuple[TextRecord, Tokens] | None = None
    if choice.search is not None:
        search = _of_file(inputs, choice.search, evaluation, progress)
    if choice.selection:
        each = -(-choice.selection_windows // len(choice.selection))
        selection = _joined([_of_file(inputs, path, evaluation, progress) for path in choice.selection], each)
    if search is None or selection is None:
        record, left = _left_of_calibration(inputs, progress)
        half = len(left) // 2 if search is None and selection is None else 0
        search = search or (record, left[:half] if half else left)
        selection = selection or (record, left[half:])
    chosen = _spread("search", *search, choice.search_windows, context)
    rest = _without_shared(selection[1], chosen.windows)
    return chosen, _spread("selection", selection[0], rest, choice.selection_windows, context)


def _joined(texts: list[tuple[TextRecord, Tokens]], each: int) -> tuple[TextRecord, Tokens]:
    """Return so many windows of each of several texts one after another; of a single text, all."""
    if len(texts) == 1:
        return texts[0]
    records, rows = zip(*texts, strict=True)
    for record, own in texts:
        if len(own) < each:
            raise CorpusError(
                f"has {len(own)} windows of its own, {each} are its part of the selection text",
                where=record.name,
                hint="name a longer one, or lower --selection-windows",
            )
    spread = [spread_windows(own.reshape(-1), own.shape[1], each) for own in rows]
    joined = TextRecord(
        name=" + ".join(record.name for record in records),
        sha256=hashlib.sha256("".join(record.sha256 for record in records).encode()).hexdigest(),
        tokens=sum(record.tokens for record in records),
        bytes=sum(record.bytes for record in records),
    )
    return joined, np.concatenate(spread)


def _of_file(inputs: Inputs, path: Path, evaluation: Tokens, progress: Progress) -> tuple[TextRecord, Tokens]:
    text = load_text(TextSettings(file=str(path)), inputs.source.tokenizer, progress)
    tokens = encode(inputs.source.tokenizer, text.content)
    rows = windows(tokens, inputs.evaluation.shape[1])
    return _record(text, tokens), _without_shared(rows, evaluation.reshape(1, -1))


def _left_of_calibration(inputs: Inputs, progress: Progress) -> tuple[TextRecord, Tokens]:
    settings = inputs.recipe.settings.calibration
    if settings is None:
        raise CorpusError(
            "the recipe has no calibration text to take the search and selection text from",
            where=str(inputs.recipe.path),
            hint="name both with --search-text FILE and --selection-text FILE",
        )
    text = load_text(settings.text, inputs.source.tokenizer, progress)
    tokens = encode(inputs.source.tokenizer, text.content)
    whole, context = settings.context or inputs.source.architecture.context, inputs.evaluation.shape[1]
    # Windows are drawn in the length of calibration, so that those which are left were not drawn.
    left = undrawn_windows(tokens, inputs.evaluation.reshape(-1), whole, settings.windows, settings.seed)
    if inputs.calibration.size:
        left = _without_shared(left, inputs.calibration)
    if context > whole:
        raise CorpusError(
            f"calibration windows have {whole:,} tokens, those of evaluation {context:,}: none is left to search",
            where=str(inputs.recipe.path),
            hint="name both texts with --search-text FILE and --selection-text FILE",
        )
    return _record(text, tokens), left[:, :context]


def _record(text: Text, tokens: Tokens) -> TextRecord:
    return TextRecord(name=text.name, sha256=text.sha256, tokens=len(tokens), bytes=text.utf8_bytes)


def _without_shared(rows: Tokens, other: Tokens) -> Tokens:
    """Return the windows that share no 13 tokens in a row with `other`."""
    marks = shared(rows.reshape(-1), other.reshape(-1))
    return rows[~marks.reshape(rows.shape).any(axis=1)] if len(rows) else rows


def _spread(what: str, record: TextRecord, rows: Tokens, count: int, context: int) -> Part:
    if len(rows) < LEAST:
        raise CorpusError(
            f"the {what} text has {len(rows)} windows of {context:,} tokens of its own; {LEAST} are the least",
            where=record.name,
            hint=f"name a longer one with --{what}-text FILE",
        )
    return Part(record, np.ascontiguousarray(spread_windows(rows.reshape(-1), context, count)))
