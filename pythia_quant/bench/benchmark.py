"""Measure a source and its artifacts: first the drift of all rows, then LAMBADA, then speed while nothing else runs."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from rich.console import Console

from pythia_quant.artifacts.artifact import Artifact, verify_files
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench import conditions, quality
from pythia_quant.bench.conditions import machine_record
from pythia_quant.bench.durations import REFERENCE, measurement_steps, work_of
from pythia_quant.bench.gates import apply_gates
from pythia_quant.bench.lambada_accuracy import measure_lambada
from pythia_quant.bench.measurements import Measurements, as_record
from pythia_quant.bench.quick import QUICK_NOTE
from pythia_quant.bench.reference import Reference, open_reference
from pythia_quant.bench.speed import measure_speeds
from pythia_quant.bench.speed_plan import latency_protocol, speed_steps
from pythia_quant.bench.subject import SOURCE_DTYPES, Subject
from pythia_quant.core import machine, process
from pythia_quant.core.errors import BenchmarkError, PythiaQuantError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.files import work_folder
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.core.progress import Steps
from pythia_quant.recipe.recipe import Recipe
from pythia_quant.records import sizes
from pythia_quant.records.protocols import LambadaProtocol, LatencyProtocol, Protocol
from pythia_quant.records.results import Lambada, Results, Row, Speed
from pythia_quant.texts.lambada import Passages


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        threads: different numbers of threads. Speed is measured with each of them, everything else with the first.
        memory: the bytes that one measurement may take, by default those that are free. A row that needs more is run
            layer by layer.
        device: ``cpu`` or ``cuda``; ONNX artifacts always run on the CPU.
        quick: whether the inputs are those of a quick look, which every number then says.
        again: measure drift and LAMBADA of the source also if the cache has them from an earlier call.
    """

    threads: list[int] = field(default_factory=lambda: [machine.cores()])
    memory: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    again: bool = False
    quick: bool = False


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


def benchmark_steps(recipe: Recipe, artifacts: int, options: Options) -> int:
    """Return the number of progress steps of :func:`benchmark` for so many artifacts."""
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

    Until everything is measured, a work folder beside `path` holds the finished measurements of drift and LAMBADA. The
    same call after an interruption continues with them. It measures speeds again.

    Args:
        inputs: the recipe with its source and evaluation windows.
        artifacts: artifacts of that source.
        path: the path that the caller will write the result file to. The work folder stands beside it.
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
    planned = _plan_rows(inputs, artifacts, options)
    rows_of = {row.subject.name: row.subject.settings for row in planned}
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
    results = _results(inputs, expected, rows, options).model_copy(update={"latency": latency, "lambada": lambada})
    return apply_gates(results, inputs.recipe.settings.gates)


def _plan_rows(inputs: Inputs, artifacts: list[Artifact], options: Options) -> list[_PlannedRow]:
    """Return the rows to measure: the source in each dtype, then the artifacts."""
    source = inputs.source
    files = sum((source.folder / name).stat().st_size for name in source.sha256)

    def planned(subject: Subject, artifact: Artifact | None, files: int, disk_bytes: int) -> _PlannedRow:
        needed = conditions.memory_needed(subject, files, source.architecture, inputs.evaluation.shape[1])
        allowed = machine.memory_available() if options.memory is None else options.memory
        return _PlannedRow(subject, artifact, disk_bytes, needed, allowed)

    rows = []
    for dtype, name in SOURCE_DTYPES.items():
        subject = Subject(name=name, folder=source.folder, dtype=dtype, device=options.device)
        rows.append(planned(subject, None, files, sizes.checkpoint_bytes(source.architecture, dtype)))
    for artifact in artifacts:
        name, size = artifact.manifest.variant, artifact.manifest.bytes_on_disk
        subject = Subject(name=name, folder=artifact.folder, settings=artifact.settings, device=options.device)
        rows.append(planned(subject, artifact, size, size))
    return rows


def _measure_drift(row: _PlannedRow, inputs: Inputs, expected: Reference, measurements: Measurements) -> Row:
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
    return _row(row, inputs, measurement, measurements.work)


def _measure_lambada(
    planned: list[_PlannedRow], inputs: Inputs, passages: Passages, measurements: Measurements
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
    planned: list[_PlannedRow], inputs: Inputs, steps: Steps, options: Options
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


def _row(planned: _PlannedRow, inputs: Inputs, measurement: dict[str, Any], work: Path) -> Row:
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
    return as_record(Row, measurement | facts, work)


def _results(inputs: Inputs, expected: Reference, rows: list[Row], options: Options) -> Results:
    source = inputs.source
    fp16 = rows[0].as_run
    finite = fp16 is not None and not fp16.non_finite
    vocabulary = source.architecture.vocabulary
    notes = [fewer] if (fewer := inputs.fewer_windows()) else []
    if options.quick:
        notes.append(QUICK_NOTE)
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
        quick=options.quick,
        baseline=rows[0].name if finite else SOURCE_DTYPES["float32"],
        rows=rows,
        notes=notes,
    )


def _fingerprint(inputs: Inputs, planned: list[_PlannedRow], passages: Passages | None, options: Options) -> str:
    """Return a hash of all that the measurements depend on. A call with the same hash continues an interrupted one."""
    rows = [
        [row.subject.name, not row.whole, row.artifact and _sha256(row.artifact.folder / MANIFEST)] for row in planned
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
