"""What a recipe needs before any work starts: the source opened, the texts tokenized, and everything checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pythia_quant.core.errors import CorpusError
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.model.place import Place
from pythia_quant.model.source import Checkpoint, Source, open_place, open_source
from pythia_quant.recipe.overrides import fit_context
from pythia_quant.recipe.recipe import Recipe
from pythia_quant.records.manifest import CalibrationRecord, SourceRecord, TextRecord
from pythia_quant.texts.load import load_text
from pythia_quant.texts.windows import Text, Tokens, calibration_windows, encode, spread_windows

MIN_WINDOWS = 2


class Texts(NamedTuple):
    """The texts of a recipe, tokenized; for the attributes see :class:`Inputs`."""

    evaluation: Tokens
    evaluation_text: TextRecord
    calibration: Tokens
    calibration_record: CalibrationRecord | None


@dataclass(frozen=True)
class Inputs:
    """A recipe with its source and texts.

    Attributes:
        recipe: the recipe, its settings fitted to the source.
        source: the opened source.
        evaluation: the evaluation windows, int64 [windows, context].
        evaluation_text: the text that these windows were cut from; its count of tokens is that of the whole text.
        calibration: the calibration windows, int64 [windows, context]; no rows when no chosen variant calibrates.
        calibration_record: the text and the draw of these windows; None when no chosen variant calibrates.
    """

    recipe: Recipe
    source: Source
    evaluation: Tokens
    evaluation_text: TextRecord
    calibration: Tokens
    calibration_record: CalibrationRecord | None

    @property
    def source_record(self) -> SourceRecord:
        """What a manifest and a result file record of the source."""
        source = self.source
        return SourceRecord(
            model=source.model,
            revision=source.revision,
            commit=source.commit,
            sha256=source.sha256,
            parameters=source.architecture.parameters,
        )

    def fewer_windows(self) -> str:
        """Say that the text has fewer windows than the recipe asks for; empty where it has enough."""
        in_recipe, in_text = self.recipe.settings.evaluation.windows, len(self.evaluation)
        if in_recipe is None or in_text >= in_recipe:
            return ""
        return f"The evaluation text has {in_text:,} windows; the recipe asks for {in_recipe:,}."


def load_inputs(
    recipe: Recipe,
    progress: Progress = SILENT,
    *,
    convert: bool = True,
    only: list[str] | None = None,
    place: Place | None = None,
) -> Inputs:
    """Open the source and the texts of a recipe, and check that its settings fit the model.

    Args:
        recipe: the recipe.
        progress: receives how much of a download has come, and what the user should know.
        convert: also check the variants and load the calibration text, which only conversions need.
        only: the variants that will be converted, all by default. What only other variants need is not checked.
        place: where the recipe's source is, if it was located before: a hub is then not asked again.

    Raises:
        PythiaQuantError: the settings do not fit the model, a text is missing or too short, or the texts overlap.
    """
    named = recipe.settings.source
    source = open_place(place, progress) if place else open_source(named.model, named.revision, progress)
    recipe = fit(recipe, source, progress, only if convert else [])
    inputs = Inputs(recipe, source, *read_texts(recipe, source, progress, convert=convert, only=only))
    if fewer := inputs.fewer_windows():
        progress.notice(fewer)
    return inputs


def fit(recipe: Recipe, checkpoint: Checkpoint, progress: Progress, variants: list[str] | None) -> Recipe:
    """Fit a recipe's contexts to a model, and check that its variants fit it, too.

    Raises:
        RecipeError: a setting does not fit the model.
    """
    recipe = fit_context(recipe, checkpoint.architecture, progress)
    recipe.check_fits(checkpoint.architecture, variants)
    return recipe


def read_texts(
    recipe: Recipe, checkpoint: Checkpoint, progress: Progress = SILENT, *, convert: bool, only: list[str] | None
) -> Texts:
    """Read the texts of a recipe that fits the model; for the arguments see :func:`load_inputs`.

    Raises:
        PythiaQuantError: a text is missing or too short, or the texts overlap.
    """
    settings, whole = recipe.settings, checkpoint.architecture.context

    def tokenized(text: Text, window: int) -> tuple[Tokens, TextRecord]:
        tokens = encode(checkpoint.tokenizer, text.content)
        if len(tokens) < window:
            what = f"has {len(tokens):,} tokens, a window takes {window:,}"
            raise CorpusError(what, where=text.name, hint="give a longer text, or a smaller --context")
        return tokens, TextRecord(name=text.name, sha256=text.sha256, tokens=len(tokens), bytes=text.utf8_bytes)

    context = settings.evaluation.context or whole
    text = load_text(settings.evaluation.text, checkpoint.tokenizer, progress)
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
        draw = settings.calibration
        if draw is None:
            solved = ", ".join(name for name in recipe.needed(only) if recipe.calibrates([name]))
            raise recipe.error(("calibration",), f"is missing, and {solved} needs it; add it, or give --calibration")
        length = draw.context or whole
        text = load_text(draw.text, checkpoint.tokenizer, progress)
        text_tokens, text_record = tokenized(text, length)
        calibration = calibration_windows(text_tokens, tokens, length, draw.windows, draw.seed)
        record = CalibrationRecord(text=text_record, windows=draw.windows, context=length, seed=draw.seed)
    return Texts(evaluation, evaluation_text, calibration, record)
