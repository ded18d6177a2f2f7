"""Calibrate on each of several texts, and evaluate on each: what a calibration text costs on another kind of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench.metrics import Value
from pythia_quant.bench.statistics import differences, mean_of_windows
from pythia_quant.core import machine, process
from pythia_quant.core.errors import CorpusError
from pythia_quant.core.progress import PartOf, Progress, Steps
from pythia_quant.recipe.recipe import TextSettings
from pythia_quant.records.manifest import CalibrationRecord, Record, TextRecord
from pythia_quant.records.results import Results
from pythia_quant.texts.load import load_text
from pythia_quant.texts.windows import Tokens, encode, shared, spread_windows, windows
from pythia_quant.tune.budget import value_of
from pythia_quant.tune.records import read_record, write_record
from pythia_quant.tune.texts import Part
from pythia_quant.tune.trials import measure_artifact


class Matrix(Record):
    """What a variant costs that was calibrated on one text, on every text.

    Attributes:
        variant: the variant.
        texts: the names of the texts.
        results: by the calibration text, then by the evaluation text; each has one row.
    """

    variant: str
    texts: list[str]
    results: list[list[Results]]

    def kl(self, calibrated: int, evaluated: int) -> Value:
        """Return the KL divergence as run, mnat."""
        return value_of(self.results[calibrated][evaluated], "kl")

    def excess(self, calibrated: int, evaluated: int) -> Value:
        """Return the KL divergence less that of the artifact which the text itself calibrated, mnat, in pairs."""
        other, own = (self.results[row][evaluated].rows[0].as_run for row in (calibrated, evaluated))
        if other is None or own is None or not other.kl or not own.kl:
            return Value(float("nan"), float("-inf"), float("inf"))
        mean = mean_of_windows(differences(other.kl, own.kl))
        return Value(*(1000 * (mean.value + sign * mean.margin) for sign in (0, -1, 1)))


def measure_matrix(
    inputs: Inputs, variant: str, texts: Sequence[Path], folder: Path, count: int, steps: Steps
) -> Matrix:
    """Calibrate a variant on the first half of each text, and measure it on the second half of each.

    Args:
        inputs: the recipe with its source and texts; it says how many windows calibrate.
        variant: the variant, which must calibrate.
        texts: their files.
        folder: the folder for artifacts and measurements; what is there already is not made again.
        count: the windows that are measured of each text.
        steps: shows progress; there is one for each text.

    Raises:
        CorpusError: a text is too short, or its halves share too much.
        PythiaQuantError: a conversion or a measurement failed.
    """
    halves = [_halves(inputs, path, count) for path in texts]
    results: list[list[Results]] = []
    threads = machine.cores()
    with process.Worker(threads) as worker:
        for path, (calibration, _) in zip(texts, halves, strict=True):
            with steps.step(f"calibrating on {path.name}") as step:
                own = _calibrated(inputs, calibration)
                out = folder / "matrix" / calibration.digest
                row = [_cell(own, variant, out, part, worker, threads, step) for _, part in halves]
                results.append(row)
    return Matrix(variant=variant, texts=[path.name for path in texts], results=results)


def _cell(
    inputs: Inputs, variant: str, out: Path, part: Part, worker: process.Worker, threads: int, step: Progress
) -> Results:
    artifact = convert(inputs, variant, out, progress=PartOf(variant, step))
    path = out / f"{variant}-{artifact.manifest.recipe_id}-{part.digest}.json"
    if not path.exists():
        write_record(measure_artifact(inputs, artifact, part, worker, threads, step), path)
    return read_record(Results, path)


def _halves(inputs: Inputs, path: Path, count: int) -> tuple[Part, Part]:
    """Return the windows of a text's first half, and those of its second half that share nothing with them."""
    text = load_text(TextSettings(file=str(path)), inputs.source.tokenizer)
    tokens = encode(inputs.source.tokenizer, text.content)
    record = TextRecord(name=text.name, sha256=text.sha256, tokens=len(tokens), bytes=text.utf8_bytes)
    settings, context = inputs.recipe.settings.calibration, inputs.evaluation.shape[1]
    length = (settings and settings.context) or inputs.source.architecture.context
    middle = len(tokens) // 2
    first = spread_windows(tokens[:middle], length, settings.windows if settings else None)
    rest = windows(tokens[middle:], context)
    marks: Tokens = shared(rest.reshape(-1), first.reshape(-1))  # type: ignore[assignment]
    rest = rest[~np.asarray(marks).reshape(rest.shape).any(axis=1)]
    if len(rest) < 2:
        raise CorpusError("has fewer than two windows to evaluate on", where=str(path), hint="give a longer text")
    return Part(record, first), Part(record, spread_windows(rest.reshape(-1), context, count))


def _calibrated(inputs: Inputs, part: Part) -> Inputs:
    settings = inputs.recipe.settings.calibration
    record = CalibrationRecord(
        text=part.record,
        windows=len(part.windows),
        context=part.windows.shape[1],
        seed=settings.seed if settings else 0,
    )
    return replace(inputs, calibration=part.windows, calibration_record=record)
