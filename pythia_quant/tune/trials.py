"""Convert choices of options with the program's own converter, and measure their drift; each is done once."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.artifacts.convert import convert_checked_by
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench.quality import measure_as_run, measure_drift
from pythia_quant.bench.reference import open_reference
from pythia_quant.bench.rows import Options, plan_rows, results_record, row_record
from pythia_quant.core import process
from pythia_quant.core.progress import PartOf, Progress
from pythia_quant.core.settings import VariantSettings
from pythia_quant.records.manifest import Record
from pythia_quant.records.results import Results
from pythia_quant.tune.budget import value_of
from pythia_quant.tune.choices import Choices, describe, with_choices
from pythia_quant.tune.cost import Meter, Spent
from pythia_quant.tune.knapsack import Items, total
from pythia_quant.tune.records import read_record, write_record
from pythia_quant.tune.sensitivity import numerics
from pythia_quant.tune.texts import Part


class Trial(Record):
    """Choices that were converted and measured.

    Attributes:
        variant: the variant whose other settings they have.
        choices: the option of each tensor.
        uniform: whether the layers have one option.
        alone: the sum of what each tensor costs alone, nats a token.
        bytes: the artifact's files of weights.
        results: what was measured on a text, a result with one row.
        spent: the processor's time that it took.
        files: the hex SHA-256 of every file of the artifact but its manifest.
    """

    variant: str
    choices: dict[str, str]
    uniform: bool
    alone: float
    bytes: int
    results: Results
    spent: Spent
    files: dict[str, str]

    @property
    def kl(self) -> float:
        """The KL divergence as run on the text, nats a token."""
        return value_of(self.results, "kl").value / 1000

    @property
    def of_weights(self) -> float:
        """The same of the weights alone, if they were measured."""
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
        search: the search text.
        selection: the selection text.
        folder: the folder for artifacts and measurements.
        worker: the process that checks conversions and measures.
        threads: those of the runtimes.
        progress: receives how far the work is.
    """

    inputs: Inputs
    variant: str
    items: Items
    search: Part
    selection: Part
    folder: Path
    worker: process.Worker | process.Here
    threads: int
    progress: Progress

    @property
    def settings(self) -> VariantSettings:
        """The variant's settings."""
        return self.inputs.recipe.variants([self.variant])[self.variant]

    def make(self, choices: Choices, text: Part, *, weights: bool = False) -> Trial:
        """Convert choices and measure them on a text; a trial that an earlier call has made is read.

        Args:
            choices: the option of each tensor.
            text: the text.
            weights: whether to measure the weights alone, too, and the error of each layer, as `run` does.

        Raises:
            PythiaQuantError: they cannot be converted or measured.
        """
        name = self.name_of(choices)
        path = self.folder / "trials" / f"{name}-{text.digest}{'-weights' if weights else ''}.json"
        if path.exists():
            return read_record(Trial, path)
        meter = Meter(self.worker)
        times = [meter.seconds()]
        artifact = self.convert(choices)
        times.append(meter.seconds())
        progress = PartOf(name, self.progress)
        results = measure_artifact(self.inputs, artifact, text, self.worker, self.threads, progress, weights=weights)
        times.append(meter.seconds())
        trial = Trial(
            variant=self.variant,
            choices=dict(choices),
            uniform=len({option for key, option in choices.items() if key.startswith("layers.")}) == 1,
            alone=total(self.items, choices).load,
            bytes=artifact.manifest.bytes_on_disk,
            results=results,
            spent=Spent(converting=times[1] - times[0], measuring=times[2] - times[1]),
            files={file: record.sha256 for file, record in artifact.manifest.files.items()},
        )
        write_record(trial, path)
        return trial

    def name_of(self, choices: Choices) -> str:
        """Return the name of the variant with these choices; it depends on all that decides its bytes."""
        calibration = hashlib.sha256(self.inputs.calibration.tobytes()).hexdigest()
        settings = with_choices(self.settings, choices).model_dump(mode="json")
        parts = json.dumps([numerics(), settings, self.inputs.source.sha256, calibration], sort_keys=True)
        return f"{self.variant[:40]}-{hashlib.sha256(parts.encode()).hexdigest()[:10]}"

    def convert(self, choices: Choices) -> Artifact:
        """Convert choices, or return the artifact that is there."""
        name = self.name_of(choices)
        settings = with_choices(self.settings, choices)
        recipe = self.inputs.recipe
        content = recipe.settings.model_copy(update={"variants": {name: settings}, "gates": {}, "basis": {}})
        inputs = replace(self.inputs, recipe=replace(recipe, settings=content))
        return convert_checked_by(
            self.worker, inputs, name, self.folder / "artifacts", overwrite=False, progress=PartOf(name, self.progress)
        )

    def remove_artifacts(self) -> None:
        """Remove the artifacts of all trials."""
        shutil.rmtree(self.folder / "artifacts", ignore_errors=True)


def measure_artifact(
    inputs: Inputs,
    artifact: Artifact,
    text: Part,
    worker: process.Worker | process.Here,
    threads: int,
    progress: Progress,
    *,
    weights: bool = True,
) -> Results:
    """Measure the drift of an artifact on a text; return a result with its row only.

    Without `weights`, the drift as run is measured and nothing else, if the model fits in memory.
    """
    ids = torch.from_numpy(text.windows)
    with_text = replace(inputs, evaluation=text.windows, evaluation_text=text.record)
    options = Options([threads])
    planned = plan_rows(with_text, [artifact], options)[-1]
    source = inputs.source
    expected = open_reference(source.weights, source.sha256, ids, progress)
    scratch = artifact.folder.parent / f".{artifact.folder.name}.states-{text.digest}"
    arguments = {
        "subject": planned.subject.model_dump(mode="json"), "threads": threads, "reference": str(expected.folder)
    }  # fmt: skip
    if weights or not planned.whole:
        arguments |= {"source": str(source.folder), "scratch": str(scratch), "whole": planned.whole}
        measurement = worker.call(measure_drift, arguments, progress)
    else:
        measurement = worker.call(measure_as_run, arguments, progress)
    shutil.rmtree(scratch, ignore_errors=True)
    row = row_record(planned, with_text, measurement, artifact.folder)
    return results_record(with_text, expected.nll, [row], options)
