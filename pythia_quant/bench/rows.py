"""The rows of a benchmark: how each will be measured, and the records of what was."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.artifacts.foreign import ForeignArtifact
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench import conditions
from pythia_quant.bench.conditions import machine_record
from pythia_quant.bench.measurements import as_record
from pythia_quant.bench.quick import QUICK_NOTE
from pythia_quant.bench.subject import SOURCE_DTYPES, Subject
from pythia_quant.core import machine
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.records import sizes
from pythia_quant.records.protocols import Protocol
from pythia_quant.records.results import Results, Row


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
class PlannedRow:
    """A row that will be measured.

    Attributes:
        subject: the model that is run, and how it is opened.
        artifact: the artifact; None for the source and for what others made.
        disk_bytes: the bytes that the weights take on disk.
        needed_bytes: the bytes of memory that the whole model needs.
        allowed_bytes: the bytes of memory that the row may take; if it needs more, it is run layer by layer, or not at
            all.
        foreign: what others made; None for the source and for artifacts of ours.
    """

    subject: Subject
    artifact: Artifact | None
    disk_bytes: int
    needed_bytes: int
    allowed_bytes: int
    foreign: ForeignArtifact | None = None

    @property
    def whole(self) -> bool:
        """Whether the model fits in memory whole."""
        return self.needed_bytes <= self.allowed_bytes

    def notes(self) -> list[str]:
        """Return sentences on how the row was run, for readers of the results."""
        own = self.foreign.notes() if self.foreign else []
        if self.whole:
            return own
        way = "was run layer by layer" if self.subject.in_layers else "was not run: nothing runs it layer by layer"
        memory_gb = f"about {self.needed_bytes / 1e9:.1f} GB of memory, of {self.allowed_bytes / 1e9:.1f}"
        return [*own, f"whole, it needs {memory_gb}; it {way}, its speed not measured"]


def plan_rows(
    inputs: Inputs, artifacts: list[Artifact], options: Options, foreign: Sequence[ForeignArtifact] = ()
) -> list[PlannedRow]:
    """Return the rows to measure: the source in each dtype, then the artifacts, then what others made."""
    source = inputs.source
    files = sum((source.folder / name).stat().st_size for name in source.sha256)

    def planned(
        subject: Subject, artifact: Artifact | None, files: int, disk_bytes: int, others: ForeignArtifact | None = None
    ) -> PlannedRow:
        model = others.memory_bytes if others else subject.settings or subject.dtype or ""
        needed = conditions.memory_needed(model, files, source.architecture, inputs.evaluation.shape[1])
        allowed = machine.memory_available() if options.memory is None else options.memory
        return PlannedRow(subject, artifact, disk_bytes, needed, allowed, others)

    rows = []
    for dtype, name in SOURCE_DTYPES.items():
        subject = Subject(name=name, folder=source.folder, dtype=dtype, device=options.device)
        rows.append(planned(subject, None, files, sizes.checkpoint_bytes(source.architecture, dtype)))
    for artifact in artifacts:
        name, size = artifact.manifest.variant, artifact.manifest.bytes_on_disk
        subject = Subject(name=name, folder=artifact.folder, settings=artifact.settings, device=options.device)
        rows.append(planned(subject, artifact, size, size))
    for others in foreign:
        subject = Subject(name=others.name, folder=others.path, foreign=others.kind, device=options.device)
        rows.append(planned(subject, None, others.disk_bytes, others.disk_bytes, others))
    return rows


def row_record(planned: PlannedRow, inputs: Inputs, measurement: dict[str, Any], work: Path) -> Row:
    """Return the record of a row, of what :func:`~pythia_quant.bench.quality.measure_drift` returned."""
    digest, quantized = None, planned.foreign is not None and planned.foreign.quantized
    if planned.artifact is not None:
        digest = hashlib.sha256((planned.artifact.folder / MANIFEST).read_bytes()).hexdigest()
        quantized = min(planned.artifact.settings.stored_bits()) < 16
    facts = {
        "name": planned.subject.name,
        "quantized": quantized,
        "bits_per_weight": sizes.bits_per_weight(planned.disk_bytes, inputs.source.architecture.parameters),
        "disk_bytes": planned.disk_bytes,
        "manifest_sha256": digest,
        "foreign": planned.foreign and planned.foreign.record(),
        "notes": planned.notes(),
    }
    return as_record(Row, measurement | facts, work)


def results_record(inputs: Inputs, reference_nll: list[float], rows: list[Row], options: Options) -> Results:
    """Return the record of rows without LAMBADA, speeds and gates; the first row is the baseline if it is finite."""
    source = inputs.source
    fp16 = rows[0].as_run
    finite = fp16 is not None and not fp16.non_finite
    vocabulary = source.architecture.vocabulary
    notes = [fewer] if (fewer := inputs.fewer_windows()) else []
    if options.quick:
        notes.append(QUICK_NOTE)
    if fmean(reference_nll) >= math.log(vocabulary):
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
        reference_nll=reference_nll,
        quick=options.quick,
        baseline=rows[0].name if finite else SOURCE_DTYPES["float32"],
        rows=rows,
        notes=notes,
    )
