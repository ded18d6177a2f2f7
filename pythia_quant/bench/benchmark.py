"""Measure a source and its artifacts: first the drift of all rows, then LAMBADA, then speed while nothing else runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pythia_quant.artifacts.artifact import Artifact, verify_files
from pythia_quant.artifacts.foreign import ForeignArtifact
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench import quality
from pythia_quant.bench.durations import REFERENCE, measurement_steps, work_of
from pythia_quant.bench.gates import apply_gates
from pythia_quant.bench.lambada_accuracy import measure_lambada
from pythia_quant.bench.measurements import Measurements, as_record
from pythia_quant.bench.reference import Reference, open_reference
from pythia_quant.bench.rows import Options, PlannedRow, plan_rows, results_record, row_record
from pythia_quant.bench.speed import measure_speeds
from pythia_quant.bench.speed_plan import latency_protocol, speed_steps
from pythia_quant.bench.subject import SOURCE_DTYPES
from pythia_quant.core import machine, process
from pythia_quant.core.errors import BenchmarkError, PythiaQuantError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.files import work_folder
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.core.progress import Steps
from pythia_quant.recipe.recipe import Recipe
from pythia_quant.records.protocols import LambadaProtocol, LatencyProtocol
from pythia_quant.records.results import Lambada, Results, Row, Speed
from pythia_quant.texts.lambada import Passages


def benchmark_steps(recipe: Recipe, artifacts: int, options: Options) -> int:
    """Return the number of progress steps of :func:`benchmark` for so many artifacts, whoever made them."""
    rows = len(SOURCE_DTYPES) + artifacts
    lambada = 1 + rows if recipe.settings.tasks.lambada else 0  # one more to open the passages
    rounds = recipe.settings.latency.rounds
    return 1 + rows + lambada + (speed_steps(rows, rounds, len(options.threads) - 1) if rounds else 0)


def benchmark(
    inputs: Inputs,
    artifacts: list[Artifact],
    path: Path,
    *,
    foreign: Sequence[ForeignArtifact] = (),
    passages: Passages | None = None,
    options: Options | None = None,
    steps: Steps | None = None,
) -> Results:
    """Measure artifacts beside their source in fp16, bf16 and fp32.

    Until everything is measured, a work folder beside `path` holds the finished measurements of drift and LAMBADA. The
    same call after an interruption continues with them. It measures speeds again.

    Args:
        inputs: the recipe with its source and evaluation windows.
        artifacts: artifacts of that source.
        path: the path that the caller will write the result file to. The work folder stands beside it.
        foreign: what others made of that source.
        passages: the passages of LAMBADA; None to leave LAMBADA out.
        options: how to measure.
        steps: shows progress; :func:`benchmark_steps` returns the number of steps.

    Raises:
        ArtifactError: an artifact was altered, or another process measures beside `path`.
        BenchmarkError: an artifact has another source, or a measuring process died.
    """
    machine.bound_torch()
    options, steps = options or Options(), steps or Steps(1, Console(quiet=True))
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError("torch finds no GPU here", where="--device cuda", hint="measure on the CPU: --device cpu")
    for artifact in artifacts:
        verify_files(artifact, sha256_if_changed)
        if artifact.manifest.source.sha256 != inputs.source.sha256:
            raise BenchmarkError("was made from other weights than these", where=str(artifact.folder))
    planned = plan_rows(inputs, artifacts, options, foreign)
    rows_of = {row.subject.name: row.foreign.like if row.foreign else row.subject.settings for row in planned}
    whole, examples = [row.subject.name for row in planned if row.whole], passages.examples if passages else None
    steps.expect(measurement_steps(work_of(inputs), rows_of, whole, examples, options.threads))
    with work_folder(path, _fingerprint(inputs, planned, passages, options), resume_after=(PythiaQuantError,)) as work:
        with steps.step(REFERENCE) as progress:
            expected = open_reference(
                inputs.source.weights, inputs.source.sha256, torch.from_numpy(inputs.evaluation), progress
            )
        with process.Worker(options.threads[0]) as worker:
            key = None if options.again else _source_key(inputs, passages, options)
            measurements = Measurements(worker, work, steps, options.threads[0], key)
            rows = [_measure_drift(row, inputs, expected, measurements) for row in planned]
            lambada, scores = _measure_lambada(planned, inputs, passages, measurements) if passages else (None, {})
        latency, speeds = _measure_speeds(planned, inputs, steps, options)
    rows = [
        row.model_copy(update={"lambada": scores.get(row.name), "speeds": speeds.get(row.name, [])}) for row in rows
    ]
    results = results_record(inputs, expected.nll, rows, options)
    results = results.model_copy(update={"latency": latency, "lambada": lambada})
    return apply_gates(results, inputs.recipe.settings.gates)


def _measure_drift(row: PlannedRow, inputs: Inputs, expected: Reference, measurements: Measurements) -> Row:
    """Measure a row's drift, and return the row without LAMBADA and speeds."""
    scratch = measurements.work / row.subject.name
    arguments = {
        "source": str(inputs.source.folder),
        "reference": str(expected.folder),
        "scratch": str(scratch),
        "whole": row.whole,
    }
    measurement = measurements.make("drift", quality.measure_drift, row.subject, arguments, whole=row.whole)
    shutil.rmtree(scratch, ignore_errors=True)  # hidden states, which take gigabytes for a long text
    return row_record(row, inputs, measurement, measurements.work)


def _measure_lambada(
    planned: list[PlannedRow], inputs: Inputs, passages: Passages, measurements: Measurements
) -> tuple[LambadaProtocol, dict[str, Lambada]]:
    """Measure LAMBADA with all rows that fit in memory whole; return the protocol, and the scores by the row's name."""
    arguments = {"file": str(passages.path), "examples": passages.examples, "source": str(inputs.source.folder)}
    scores = {
        row.subject.name: as_record(
            Lambada,
            measurements.make("LAMBADA", measure_lambada, row.subject, arguments, whole=True),
            measurements.work,
        )
        for row in planned
        if row.whole
    }
    return LambadaProtocol(file=passages.name, sha256=passages.sha256, examples=passages.examples), scores


def _measure_speeds(
    planned: list[PlannedRow], inputs: Inputs, steps: Steps, options: Options
) -> tuple[LatencyProtocol | None, dict[str, list[Speed]]]:
    """Measure the speed of all rows that fit in memory whole; return the protocol, and the speeds by the row's name.

    Nothing is measured if the recipe asks for 0 rounds.
    """
    settings = inputs.recipe.settings.latency
    if not settings.rounds:
        return None, {}
    latency = latency_protocol(settings, inputs.source.architecture.context)
    subjects = [row.subject for row in planned if row.whole]
    text = inputs.evaluation.reshape(-1)[: max(*latency.prompts, *latency.contexts)].tolist()
    speeds = measure_speeds(subjects, text, latency, options.threads, steps)
    return latency, {subject.name: speed for subject, speed in zip(subjects, speeds, strict=True)}


def _fingerprint(inputs: Inputs, planned: list[PlannedRow], passages: Passages | None, options: Options) -> str:
    """Return a hash of all that the measurements depend on. A call with the same hash continues an interrupted one."""
    rows = [
        [
            row.subject.name,
            not row.whole,
            row.artifact and _sha256(row.artifact.folder / MANIFEST),
            row.foreign and row.foreign.record().model_dump(),
        ]
        for row in planned
    ]
    return _digest({"rows": rows, "source": _source_key(inputs, passages, options)})


def _source_key(inputs: Inputs, passages: Passages | None, options: Options) -> str:
    """Return a hash of all that measurements of the source depend on, beside its dtype and how it is run."""
    return _digest(
        {
            "source": [inputs.source.sha256, inputs.source.architecture.config()],
            "evaluation": hashlib.sha256(inputs.evaluation.tobytes()).hexdigest(),
            "options": [options.threads[0], options.device],
            "lambada": passages and [passages.sha256, passages.examples],
            "machine": [machine.cpu(), machine.accelerator(), machine.library_versions(), machine.tool_version()],
        }
    )


def _digest(parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
