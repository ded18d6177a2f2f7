"""What a recipe needs before any work starts: the source opened, the texts tokenized, and everything checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pythia_quant.core.errors import CorpusError
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.model.source import Source, open_source
from pythia_quant.recipe.overrides import with_context_of
from pythia_quant.recipe.recipe import Recipe
from pythia_quant.records.manifest import CalibrationRecord, TextRecord
from pythia_quant.texts.load import load_text
from pythia_quant.texts.windows import Text, Tokens, calibration_windows, encode, spread_windows

MIN_WINDOWS = 2


@dataclass(frozen=True)
class Inputs:
    """A recipe with its source and texts.

    Attributes:
        evaluation: int64 [windows, context].
        evaluation_text: the text they were cut from, with the tokens of all of it.
        calibration: int64 [windows, context]; no rows when no chosen variant calibrates.
        calibration_record: where they came from.
    """

    recipe: Recipe
    source: Source
    evaluation: Tokens
    evaluation_text: TextRecord
    calibration: Tokens
    calibration_record: CalibrationRecord | None

    def fewer_windows(self) -> str:
        """Say that the text has fewer windows than the recipe asks for; empty where it has enough."""
        wanted, found = self.recipe.settings.evaluation.windows, len(self.evaluation)
        if wanted is None or found >= wanted:
            return ""
        return f"The evaluation text has {found:,} windows; the recipe asks for {wanted:,}."


def load_inputs(
    recipe: Recipe,
    progress: Progress = SILENT,
    *,
    convert: bool = True,
    only: list[str] | None = None,
) -> Inputs:
    """Open the source and the texts of a recipe.

    Args:
        recipe: which.
        progress: is told how much of a download has come, and what the user should know.
        convert: check the variants and load what they are calibrated on, too; measuring does not need it.
        only: the variants that will be converted; all unless given. Nothing that only others need is looked at.

    Raises:
        PythiaQuantError: the settings do not fit the model, a text is missing or too short, or they overlap.
    """
    source = open_source(recipe.settings.source.model, recipe.settings.source.revision, progress)
    recipe = with_context_of(recipe, source.architecture, progress)
    recipe.check_fits(source.architecture, only if convert else [])
    settings = recipe.settings

    def tokenized(text: Text, window: int) -> tuple[Tokens, TextRecord]:
        tokens = encode(source.tokenizer, text.content)
        if len(tokens) < window:
            what = f"has {len(tokens):,} tokens, a window takes {window:,}"
            raise CorpusError(what, where=text.name, hint="give a longer text, or a smaller --context")
        return tokens, TextRecord(name=text.name, sha256=text.sha256, tokens=len(tokens), bytes=text.utf8_bytes)

    context = settings.evaluation.context or source.architecture.context
    text = load_text(settings.evaluation.text, source.tokenizer, progress)
    tokens, evaluation_text = tokenized(text, context)
    evaluation = spread_windows(tokens, context, settings.evaluation.windows)
    if len(evaluation) < MIN_WINDOWS:
        raise CorpusError(
            f"the evaluation text gives {len(evaluation)} windows of {context:,} tokens; {MIN_WINDOWS} are the least "
            "that have a standard error",
            hint="give a longer text, or lower evaluation.context",
        )
    calibration, record = np.empty((0, context), dtype=np.int64), None
    if convert and recipe.calibrates(only):
        wanted = settings.calibration
        if wanted is None:
            solved = ", ".join(name for name in recipe.needed(only) if recipe.calibrates([name]))
            raise recipe.error(("calibration",), f"is missing, and {solved} needs it; add it, or give --calibration")
        length = wanted.context or source.architecture.context
        text = load_text(wanted.text, source.tokenizer, progress)
        text_tokens, text_record = tokenized(text, length)
        calibration = calibration_windows(text_tokens, tokens, length, wanted.windows, wanted.seed)
        record = CalibrationRecord(text=text_record, windows=wanted.windows, context=length, seed=wanted.seed)
    inputs = Inputs(recipe, source, evaluation, evaluation_text, calibration, record)
    if fewer := inputs.fewer_windows():
        progress.notice(fewer)
    return inputs
