"""Convert choices of options with the program's own converter, and measure their drift; each is done once."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

import torch

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench.quality import measure_drift
from pythia_quant.bench.reference import open_reference
from pythia_quant.bench.rows import Options, plan_rows, results_record, row_record
from pythia_quant.core import process
from pythia_quant.core.progress import PartOf, Progress
from pythia_quant.core.settings import VariantSettings
from pythia_quant.records.manifest import Record
from pythia_quant.records.results import Results
from pythia_quant.tune.budget import value_of
from pythia_quant.tune.choices import Choices, describe, with_choices
from pythia_quant.tune.knapsack import Items, total
from pythia_quant.tune.records import read_record, write_record
from pythia_quant.tune.texts import Part


class Trial(Record):
    """Choices that were converted and measured.

    Attributes:
        variant: the variant whose other settings they have.
        choices: the option of each tensor.
        uniform: whether the layers have one option.
        alone: the sum of what each tensor costs alone, nats a token.
        bytes: the artifact's files of weights.
        results: what was measured on the selection text, a result with one row.
    """

    variant: str
    choices: dict[str, str]
    uniform: bool
    alone: float
    bytes: int
    results: Results

    @property
    def kl(self) -> float:
        """The KL divergence as run on the selection text, nats a token."""
        return value_of(self.results, "kl").value / 1000

    @property
    def of_weights(self) -> float:
        """The same of the weights alone."""
        drift = self.results.rows[0].weights
        return fmean(drift.kl) if drift is not None and drift.kl else self.kl

    @property
    def name(self) -> str:
        """The choices in a few words."""
        return describe(self.choices)


@dataclass(frozen=True)
class Trials:
    """Makes trials of one variant.

    Attributes:
        inputs: the recipe with its source and texts.
        variant: the name of the variant.
        items: what each option of each tensor costs and takes.
        selection: the selection text.
        folder: the folder for artifacts and measurements.
        worker: the process that measures.
        threads: those of the runtimes.
        progress: receives how far the work is.
    """

    inputs: Inputs
    variant: str
    items: Items
    selection: Part
    folder: Path
    worker: process.Worker
    threads: int
    progress: Progress
    made: list[Trial] = field(default_factory=list)

    @property
    def settings(self) -> VariantSettings:
        """The variant's settings."""
        return self.inputs.recipe.variants([self.variant])[self.variant]

    def make(self, choices: Choices) -> Trial:
        """Convert choices and measure them on the selection text; a trial that an earlier call has made is read.

        Raises:
            PythiaQuantError: they cannot be converted or measured.
        """
        name = self.name_of(choices)
        path = self.folder / "trials" / f"{name}-{self.selection.digest}.json"
        if path.exists():
            trial = read_record(Trial, path)
        else:
            results, artifact = self.measure(choices, self.selection)
            trial = Trial(
                variant=self.variant,
                choices=dict(choices),
                uniform=len({option for key, option in choices.items() if key.startswith("layers.")}) == 1,
                alone=total(self.items, choices).load,
                bytes=artifact.manifest.bytes_on_disk,
                results=results,
            )
            write_record(trial, path)
        if trial not in self.made:
            self.made.append(trial)
        return trial

    def name_of(self, choices: Choices) -> str:
        """Return the name of the variant with these choices; it depends on all that decides its bytes."""
        calibration = hashlib.sha256(self.inputs.calibration.tobytes()).hexdigest()
        settings = with_choices(self.settings, choices).model_dump(mode="json")
        parts = json.dumps([settings, self.inputs.source.sha256, calibration], sort_keys=True)
        return f"{self.variant[:40]}-{hashlib.sha256(parts.encode()).hexdigest()[:10]}"

    def measure(self, choices: Choices, text: Part) -> tuple[Results, Artifact]:
        """Convert choices, and measure them on a text."""
        name = self.name_of(choices)
        artifact = self.convert(choices)
        return measure_artifact(
            self.inputs, artifact, text, self.worker, self.threads, PartOf(name, self.progress)
        ), artifact

    def convert(self, choices: Choices) -> Artifact:
        """Convert choices, or return the artifact that is there."""
        name = self.name_of(choices)
        settings = with_choices(self.settings, choices)
        recipe = self.inputs.recipe
        content = recipe.settings.model_copy(update={"variants": {name: settings}, "gates": {}, "basis": {}})
        inputs = replace(self.inputs, recipe=replace(recipe, settings=content))
        return convert(inputs, name, self.folder / "artifacts", progress=PartOf(name, self.progress))

    def remove_artifacts(self) -> None:
        """Remove the artifacts of all trials."""
        shutil.rmtree(self.folder / "artifacts", ignore_errors=True)


def measure_artifact(
    inputs: Inputs, artifact: Artifact, text: Part, worker: process.Worker, threads: int, progress: Progress
) -> Results:
    """Measure the drift of an artifact on a text; return a result with its row only."""
    ids = torch.from_numpy(text.windows)
    with_text = replace(inputs, evaluation=text.windows, evaluation_text=text.record)
    options = Options([threads])
    planned = plan_rows(with_text, [artifact], options)[-1]
    source = inputs.source
    expected = open_reference(source.weights, source.sha256, ids, progress)
    scratch = artifact.folder.parent / f".{artifact.folder.name}.states-{text.digest}"
    arguments = {
        "subject": planned.subject.model_dump(mode="json"), "threads": threads, "source": str(source.folder),
        "reference": str(expected.folder), "scratch": str(scratch), "whole": planned.whole,
    }  # fmt: skip
    measurement = worker.call(measure_drift, arguments, progress)
    shutil.rmtree(scratch, ignore_errors=True)
    row = row_record(planned, with_text, measurement, artifact.folder)
    return results_record(with_text, expected.nll, [row], options)
