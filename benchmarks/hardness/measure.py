"""One row: a model, a method and calibration windows; the drift it costs on every kind of text."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peers.reference import fp32_reference
from peers.replaced import nearest

from hardness.texts import Texts
from pythia_quant.artifacts.convert import convert_checked_by
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench.quality import WindowLogits, compare_logits, run_in_layers, run_whole
from pythia_quant.bench.reference import Reference
from pythia_quant.bench.subject import Subject
from pythia_quant.core.process import Here
from pythia_quant.core.progress import SILENT
from pythia_quant.model.forward import Fp32Layers
from pythia_quant.model.source import Source, open_source
from pythia_quant.model.weights import WeightReader
from pythia_quant.recipe.recipe import Recipe
from pythia_quant.records.manifest import CalibrationRecord, TextRecord
from pythia_quant.texts.windows import Tokens

SOURCE = {"torch-bf16": "bfloat16", "torch-fp16": "float16"}
"""The methods that only run the source."""
NEAREST = "nearest"
"""Rounding to nearest in 4 bits and groups of 128, of which there are only weights."""


@dataclass(frozen=True)
class Row:
    """What is measured.

    Attributes:
        model: the name of the hard model.
        method: the name of a variant, or of another method.
        settings: settings of the variant that differ from the recipe's.
        calibration: the kind of calibration text; empty if the method does not calibrate.
        windows: of calibration.
        draw: of these windows.
        label: tells results of different versions of the code apart.
    """

    model: str
    method: str
    settings: tuple[tuple[str, Any], ...] = ()
    calibration: str = ""
    windows: int = 0
    draw: int = 0
    label: str = ""

    @property
    def name(self) -> str:
        """The method with what is special about it."""
        parts = [self.method, *(f"{key}={value}" for key, value in self.settings), self.label]
        return " ".join(filter(None, parts))

    def key(self) -> list[Any]:
        """Return what a result is found by, as JSON data."""
        return [self.model, self.name, self.calibration, self.windows, self.draw]


@dataclass(frozen=True, eq=False)
class Measuring:
    """What all rows share.

    Attributes:
        recipe: the variants, with the settings of the command line.
        work: folder for models and references.
        texts: where the texts are.
        windows: the number of windows of each kind of text that are measured.
        threads: of runtimes.
        run: measure as run, too, and not only the weights in fp32 arithmetic.
    """

    recipe: Recipe
    work: Path
    texts: Texts
    windows: int
    threads: int
    run: bool

    def measure(self, row: Row) -> dict[str, Any]:
        """Convert, and measure the drift of the weights and as run.

        Returns:
            JSON data: the row; ``measured``, the windows of each kind of text; ``seconds`` of the conversion and of
            all; ``texts``, for each kind of text the mean KL of every window in nat, ``weights`` and ``as_run``. They
            are empty if a logit is not finite.

        Raises:
            PythiaQuantError: the conversion failed.
        """
        started = time.perf_counter()
        source, evaluation, references = self._opened(row.model)
        with tempfile.TemporaryDirectory(dir=self.work) as name:
            scratch = Path(name)
            subject, weights = self._subject(row, source, evaluation, scratch)
            converted = time.perf_counter()
            runtime = subject.open_runtime(self.threads) if subject and self.run else None
            texts = {}
            for kind, reference in references.items():
                logits: dict[str, WindowLogits] = {}
                if weights:
                    logits["weights"] = run_in_layers(Fp32Layers(weights), reference.ids, scratch / kind, kind)
                if runtime:
                    logits["as_run"] = run_whole(runtime.logits, reference.ids)
                texts[kind] = {what: drift.kl for what, drift in compare_logits(reference, logits).items()}
        seconds = {"convert": converted - started, "all": time.perf_counter() - started}
        facts = {"model": row.model, "method": row.name, "calibration": row.calibration, "draw": row.draw}
        rounded = {
            kind: {what: [float(f"{kl:.5g}") for kl in kls] for what, kls in each.items()}
            for kind, each in texts.items()
        }
        return {
            **facts,
            "windows": row.windows,
            "measured": self.windows,
            "key": row.key(),
            "seconds": seconds,
            "texts": rounded,
        }

    @cache  # noqa: B019 - of the few models that a run measures
    def _opened(self, model: str) -> tuple[Source, Tokens, dict[str, Reference]]:
        source = open_source(str(self.work / "models" / model))
        evaluation = self.texts.evaluation(source.tokenizer, self.windows)
        references = {
            kind: fp32_reference(source, torch.from_numpy(ids), self.work) for kind, ids in evaluation.items()
        }
        return source, next(iter(evaluation.values())), references

    def _subject(
        self, row: Row, source: Source, evaluation: Tokens, scratch: Path
    ) -> tuple[Subject | None, WeightReader | None]:
        """Return what is run, and its weights; None where a method has no such."""
        if row.method in SOURCE:
            return Subject(name=row.method, folder=source.folder, dtype=SOURCE[row.method]), None
        if row.method == NEAREST:
            return None, nearest(source.weights, 4, 128)
        inputs = self._inputs(row, source, evaluation)
        artifact = convert_checked_by(
            Here(self.threads), inputs, row.method, scratch / "artifacts", overwrite=False, progress=SILENT
        )
        subject = Subject(name=row.method, folder=artifact.folder, settings=artifact.settings)
        return subject, subject.open_weights()

    def _inputs(self, row: Row, source: Source, evaluation: Tokens) -> Inputs:
        text = TextRecord(name="hardness", sha256="0" * 64, tokens=evaluation.size, bytes=0)
        drawn: tuple[Tokens, CalibrationRecord | None] = (evaluation[:0], None)
        if row.calibration:
            drawn = self.texts.calibration(source.tokenizer, row.calibration, row.windows, row.draw)
        return Inputs(self.recipe, source, evaluation, text, *drawn)
