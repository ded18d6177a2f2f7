"""Measure a source and its artifacts in one run: drift first, then tasks, then speed with nothing else running."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeVar

import torch
from pydantic import ValidationError
from rich.console import Console

from pythia_quant.artifacts.artifact import Artifact, verify_files
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench import conditions, quality
from pythia_quant.bench.conditions import machine_record
from pythia_quant.bench.gates import evaluate_gates
from pythia_quant.bench.lambada_accuracy import measure_row
from pythia_quant.bench.reference import Reference, reference
from pythia_quant.bench.speed import latency_protocol, measure_speeds
from pythia_quant.bench.speed import step_count as speed_steps
from pythia_quant.bench.subject import SOURCE_DTYPES, Subject
from pythia_quant.core import machine, process
from pythia_quant.core.errors import BenchmarkError, PythiaQuantError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.files import replace_file, work_folder
from pythia_quant.core.foreign_files import MANIFEST, read_object
from pythia_quant.core.progress import Steps
from pythia_quant.core.text import short
from pythia_quant.recipe.recipe import Recipe
from pythia_quant.records import sizes
from pythia_quant.records.manifest import Record
from pythia_quant.records.protocols import LambadaProtocol, LatencyProtocol, Protocol
from pythia_quant.records.results import Lambada, Results, Row, Speed
from pythia_quant.texts.lambada import Passages


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        threads: numbers of threads. Speed is measured with each of them, everything else with the first.
        memory: the bytes that one measurement may take, by default those that are free. A row that needs more is run
            layer by layer.
        device: ``cpu`` or ``cuda``; ONNX artifacts always run on the CPU.
    """

    threads: list[int] = field(default_factory=lambda: [machine.cores()])
    memory: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class _PlannedRow:
    """A row that will be measured.

    Attributes:
        subject: the model that is run, and how it is opened.
        artifact: the artifact; None for the source.
        disk_bytes: the bytes that the weights take on disk.
        needed_bytes: the bytes of memory that the whole model needs.
        allowed_bytes: the bytes of memory that the row may take; if it needs more, it is run layer by layer, or not at
            all.
    """

    subject: Subject
    artifact: Artifact | None
    disk_bytes: int
    needed_bytes: int
    allowed_bytes: int

    @property
    def whole(self) -> bool:
        """Whether the model fits in memory whole."""
        return self.needed_bytes <= self.allowed_bytes

    def notes(self) -> list[str]:
        """Return sentences on how the row was run, for readers of the results."""
        if self.whole:
            return []
        way = "was run layer by layer" if self.subject.in_layers else "was not run: nothing runs it layer by layer"
        memory_gb = f"about {self.needed_bytes / 1e9:.1f} GB of memory, of {self.allowed_bytes / 1e9:.1f}"
        return [f"whole, it needs {memory_gb}; it {way}, its speed not measured"]


def step_count(recipe: Recipe, artifacts: int, options: Options) -> int:
    """Return how many progress steps :func:`benchmark` takes for that many artifacts."""
    rows = len(SOURCE_DTYPES) + artifacts
    lambada = 1 + rows if recipe.settings.tasks.lambada else 0  # one more to open the passages
    rounds = recipe.settings.latency.rounds
    return 1 + rows + lambada + (speed_steps(rows, rounds, len(options.threads) - 1) if rounds else 0)


def benchmark(
    inputs: Inputs,
    artifacts: list[Artifact],
    path: Path,
    *,
    passages: Passages | None = None,
    options: Options | None = None,
    steps: Steps | None = None,
) -> Results:
    """Measure artifacts beside their source in fp16, bf16 and fp32.

    Finished measurements of drift and LAMBADA are kept in a work folder beside `path` until everything is measured, so
    that the same call can go on after an interruption. Speeds are measured again.

    Args:
        inputs: the recipe with its source and evaluation windows.
        artifacts: artifacts of that source.
        path: the path that the caller will write the result file to. The work folder stands beside it.
        passages: the passages of LAMBADA; None to leave LAMBADA out.
        options: how to measure.
        steps: shows progress; :func:`step_count` returns the number of steps.

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
    planned = _plan_rows(inputs, artifacts, options)
    with work_folder(path, _fingerprint(inputs, planned, passages, options), resume_after=(PythiaQuantError,)) as work:
        with steps.step("reference in fp32") as progress:
            expected = reference(
                inputs.source.weights, inputs.source.sha256, torch.from_numpy(inputs.evaluation), progress
            )
        with process.Worker(options.threads[0]) as worker:
            once = _Once(worker, work, steps, options.threads[0])
            rows = [_measure_row(row, inputs, expected, once) for row in planned]
            lambada, scores = _measure_lambada(planned, inputs, passages, once) if passages else (None, {})
        latency, speeds = _measure_speeds(planned, inputs, steps, options)
    rows = [
        row.model_copy(update={"lambada": scores.get(row.name), "speeds": speeds.get(row.name, [])}) for row in rows
    ]
    results = _results(inputs, expected, rows, options).model_copy(update={"latency": latency, "lambada": lambada})
    return results.model_copy(update={"gates": evaluate_gates(results, inputs.recipe.settings.gates)})


def _plan_rows(inputs: Inputs, artifacts: list[Artifact], options: Options) -> list[_PlannedRow]:
    """Return the rows to measure: the source in each dtype, then the artifacts."""
    source = inputs.source
    files = sum((source.folder / name).stat().st_size for name in source.sha256)

    def planned(subject: Subject, artifact: Artifact | None, files: int, disk_bytes: int) -> _PlannedRow:
        needed = conditions.needed(subject, files, source.architecture, inputs.evaluation.shape[1])
        allowed = machine.memory_available() if options.memory is None else options.memory
        return _PlannedRow(subject, artifact, disk_bytes, needed, allowed)

    rows = []
    for dtype, name in SOURCE_DTYPES.items():
        subject = Subject(name=name, folder=source.folder, dtype=dtype, device=options.device)
        rows.append(planned(subject, None, files, sizes.of_checkpoint(source.architecture, dtype)))
    for artifact in artifacts:
        name, size = artifact.manifest.variant, artifact.manifest.bytes_on_disk
        subject = Subject(name=name, folder=artifact.folder, settings=artifact.settings, device=options.device)
        rows.append(planned(subject, artifact, size, size))
    return rows


def _measure_row(row: _PlannedRow, inputs: Inputs, expected: Reference, once: _Once) -> Row:
    """Measure a row's drift, or read what an interrupted call has measured."""
    scratch = once.work / row.subject.name
    arguments = {
        "source": str(inputs.source.folder),
        "reference": str(expected.folder),
        "scratch": str(scratch),
        "whole": row.whole,
    }
    measured = once("drift", quality.measure, row.subject, arguments)
    shutil.rmtree(scratch, ignore_errors=True)  # hidden states, as large as the text
    return _row(row, inputs, measured, once.work)


def _measure_lambada(
    planned: list[_PlannedRow], inputs: Inputs, passages: Passages, once: _Once
) -> tuple[LambadaProtocol, dict[str, Lambada]]:
    """Measure LAMBADA on all rows that fit in memory whole."""
    arguments = {"file": str(passages.path), "examples": passages.examples, "source": str(inputs.source.folder)}
    scores = {
        row.subject.name: as_record(Lambada, once("LAMBADA", measure_row, row.subject, arguments), once.work)
        for row in planned
        if row.whole
    }
    return LambadaProtocol(file=passages.name, sha256=passages.sha256, examples=passages.examples), scores


def _measure_speeds(
    planned: list[_PlannedRow], inputs: Inputs, steps: Steps, options: Options
) -> tuple[LatencyProtocol | None, dict[str, list[Speed]]]:
    """Measure the speed of all rows that fit in memory whole, if the recipe asks for any round."""
    settings = inputs.recipe.settings.latency
    if not settings.rounds:
        return None, {}
    latency = latency_protocol(settings, inputs.source.architecture.context)
    subjects = [row.subject for row in planned if row.whole]
    text = inputs.evaluation.reshape(-1)[: max(*latency.prompts, *latency.contexts)].tolist()
    speeds = measure_speeds(subjects, text, latency, options.threads, steps)
    return latency, {subject.name: speed for subject, speed in zip(subjects, speeds, strict=True)}


@dataclass(frozen=True)
class _Once:
    """Measures each row once: in the worker, unless an interrupted call has left the measurement in the work folder."""

    worker: process.Worker
    work: Path
    steps: Steps
    threads: int

    def __call__(
        self, what: str, task: Callable[..., dict[str, Any]], subject: Subject, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        done = self.work / f"{subject.name}.{what}.json"
        arguments = arguments | {"subject": subject.model_dump(mode="json"), "threads": self.threads}
        with self.steps.step(f"{what} of {subject.name}") as progress:
            if not done.exists():
                try:
                    measured = self.worker.call(task, arguments, progress)
                except BenchmarkError as error:
                    message = f"measuring {what} of {subject.name}: {error.what}"
                    raise BenchmarkError(message, where=error.where, hint=error.hint) from error
                replace_file(done, json.dumps(measured))
        return read_object(done, BenchmarkError, "remove it: that is measured again then")


def _row(planned: _PlannedRow, inputs: Inputs, measured: dict[str, Any], work: Path) -> Row:
    if planned.artifact is None:
        digest, quantized = None, False
    else:
        digest = _sha256(planned.artifact.folder / MANIFEST)
        quantized = min(planned.artifact.settings.stored_bits()) < 16
    facts = {
        "name": planned.subject.name,
        "quantized": quantized,
        "bits_per_weight": sizes.bits_per_weight(planned.disk_bytes, inputs.source.architecture.parameters),
        "disk_bytes": planned.disk_bytes,
        "manifest_sha256": digest,
        "notes": planned.notes(),
    }
    return as_record(Row, measured | facts, work)


def as_record(kind: type[R], measured: dict[str, Any], work: Path) -> R:
    """Make a record of a measurement, which an interrupted call may have left in the folder `work`.

    Raises:
        BenchmarkError: the measurement is damaged.
    """
    try:
        return kind.model_validate(measured)
    except ValidationError as error:
        key = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
        hint = "remove the folder, and all is measured again"
        raise BenchmarkError(
            f"what was measured before cannot be read: {short(key)}", where=str(work), hint=hint
        ) from error


def _results(inputs: Inputs, expected: Reference, rows: list[Row], options: Options) -> Results:
    source = inputs.source
    fp16 = rows[0].as_run
    finite = fp16 is not None and not fp16.non_finite
    vocabulary = source.architecture.vocabulary
    notes = [fewer] if (fewer := inputs.fewer_windows()) else []
    if fmean(expected.nll) >= math.log(vocabulary):
        notes.append(
            f"The model predicts this text worse than a guess among its {vocabulary:,} tokens would: it is untrained, "
            "or the tokenizer is another model's."
        )
    return Results(
        tool=machine.tool_version(),
        created=datetime.now(UTC),
        source=inputs.source_record,
        text=inputs.evaluation_text,
        protocol=Protocol(
            context=inputs.evaluation.shape[1],
            windows=len(inputs.evaluation),
            text_windows=inputs.evaluation_text.tokens // inputs.evaluation.shape[1],
        ),
        latency=None,
        machine=machine_record(options.device),
        reference_nll=expected.nll,
        baseline=rows[0].name if finite else SOURCE_DTYPES["float32"],
        rows=rows,
        notes=notes,
    )


def _fingerprint(inputs: Inputs, planned: list[_PlannedRow], passages: Passages | None, options: Options) -> str:
    """Return a hash of all that decides the measurements: a call with the same hash can go on after an interruption."""
    parts = {
        "source": inputs.source.sha256,
        "evaluation": hashlib.sha256(inputs.evaluation.tobytes()).hexdigest(),
        "rows": [
            [row.subject.name, not row.whole, row.artifact and _sha256(row.artifact.folder / MANIFEST)]
            for row in planned
        ],
        "options": [options.threads[0], options.device],
        "lambada": passages and [passages.sha256, passages.examples],
        "machine": [machine.cpu(), machine.library_versions(), machine.tool_version()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
