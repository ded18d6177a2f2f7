"""Measure a source and its artifacts in one run: drift first, then speed with nothing else running."""

from __future__ import annotations

import hashlib
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from pythia_quant import environment, isolate
from pythia_quant.artifact import Artifact, verify_files
from pythia_quant.bench.drift import make_reference, reference_nll
from pythia_quant.bench.gates import evaluate_gates
from pythia_quant.bench.subject import SOURCE_DTYPES, Subject
from pythia_quant.errors import BenchmarkError
from pythia_quant.inputs import Inputs
from pythia_quant.manifest import MANIFEST, SourceRecord
from pythia_quant.progress import Steps
from pythia_quant.results import Drift, LatencyProtocol, Machine, Protocol, Results, Row, Speed, SpeedProcess


def step_count(artifacts: int) -> int:
    """Return how many progress steps :func:`benchmark` takes for that many artifacts."""
    return 1 + 2 * (len(SOURCE_DTYPES) + artifacts)


def benchmark(inputs: Inputs, artifacts: list[Artifact], steps: Steps, threads: int | None = None) -> Results:
    """Measure artifacts beside their source in fp16, bf16 and fp32.

    Args:
        inputs: the recipe's source and evaluation windows.
        artifacts: made from that source.
        steps: shows progress; :func:`step_count` says how many steps are taken.
        threads: for every runtime; all of this process's processors unless given.

    Raises:
        ArtifactError: an artifact was altered.
        BenchmarkError: an artifact is of another source, or a measuring process died.
    """
    threads = threads or environment.cores()
    source, ids = inputs.source, inputs.evaluation
    for artifact in artifacts:
        verify_files(artifact)
        if artifact.manifest.source.sha256 != source.sha256:
            raise BenchmarkError("was made from other weights than these", where=str(artifact.folder))
    subjects = [Subject(name=name, folder=source.folder, dtype=dtype) for dtype, name in SOURCE_DTYPES.items()]
    subjects += [
        Subject(name=artifact.manifest.variant, folder=artifact.folder, settings=artifact.manifest.settings)
        for artifact in artifacts
    ]
    with tempfile.TemporaryDirectory(prefix="pythia-quant-reference-") as scratch:
        with steps.step("reference in fp32") as report:
            layers = iter(range(source.architecture.layers))
            reference = make_reference(
                source.weights,
                torch.from_numpy(ids),
                Path(scratch),
                lambda: report("layer", next(layers), source.architecture.layers),
            )
            nll = reference_nll(reference.ids(), reference.logits())
        qualities = []
        for subject in subjects:
            with steps.step(f"drift of {subject.name}"):
                qualities.append(_call("quality", subject, reference=scratch, threads=threads))
    speeds = []
    prompt = [int(token) for token in ids.reshape(-1)[:1024]]
    for subject in subjects:
        with steps.step(f"speed of {subject.name}"):
            speeds.append(_call("speed", subject, prompt=prompt, context=source.architecture.context, threads=threads))
    rows = [
        _row(inputs, subject, artifact, quality, speed, threads)
        for subject, artifact, quality, speed in zip(
            subjects, [None] * len(SOURCE_DTYPES) + list(artifacts), qualities, speeds, strict=True
        )
    ]
    fp16 = rows[0].as_run
    baseline = rows[0] if fp16 and not fp16.non_finite else rows[2]
    first = rows[0].speeds[0].processes[0]
    latency = LatencyProtocol(
        prompts=[first.prefill[0].tokens],
        contexts=[first.decode[0].tokens],
        decoded=64,
        repetitions=10,
        warm_up=2,
        rounds=1,
    )
    results = Results(
        tool=environment.tool_version(),
        created=datetime.now(UTC),
        source=SourceRecord(
            model=source.model,
            revision=source.revision,
            commit=source.commit,
            sha256=source.sha256,
            parameters=source.architecture.parameters,
        ),
        text=inputs.evaluation_text,
        protocol=Protocol(context=ids.shape[1], windows=len(ids)),
        latency=latency,
        machine=_machine(),
        reference_nll=nll,
        baseline=baseline.name,
        rows=rows,
    )
    return results.model_copy(update={"gates": evaluate_gates(results, inputs.recipe.settings.gates)})


def _call(task: str, subject: Subject, threads: int, **arguments: Any) -> dict[str, Any]:
    arguments |= {"subject": subject.model_dump(mode="json"), "threads": threads}
    try:
        result: dict[str, Any] = isolate.call(f"pythia_quant.bench.tasks:{task}", arguments, threads)
    except BenchmarkError as error:
        raise BenchmarkError(f"measuring the {task} of {subject.name}: {error.what}", hint=error.hint) from error
    return result


def _row(
    inputs: Inputs,
    subject: Subject,
    artifact: Artifact | None,
    quality: dict[str, Any],
    speed: dict[str, Any],
    threads: int,
) -> Row:
    if artifact is None:
        disk = sum((inputs.source.folder / name).stat().st_size for name in inputs.source.sha256)
        bits = 8 * inputs.source.weights.tensor_bytes / inputs.source.architecture.parameters
        digest, quantized = None, False
    else:
        disk, bits = artifact.manifest.bytes_on_disk, artifact.manifest.bits_per_weight
        digest = hashlib.sha256((artifact.folder / MANIFEST).read_bytes()).hexdigest()
        quantized = min(artifact.settings.stored_bits()) < 16
    weights = quality["weights"]
    return Row(
        name=subject.name,
        quantized=quantized,
        runtime=quality["runtime"],
        bits_per_weight=bits,
        disk_bytes=disk,
        manifest_sha256=digest,
        weights=Drift.model_validate(weights) if weights else None,
        as_run=Drift.model_validate(quality["as_run"]),
        speeds=[Speed(threads=threads, weight_bytes=None, processes=[SpeedProcess.model_validate(speed)])],
    )


def _machine() -> Machine:
    name, sets = environment.processor()
    return Machine(
        cpu=name,
        instruction_sets=sets,
        cores=environment.cores(),
        memory_bytes=psutil.virtual_memory().total,
        system=environment.system(),
        versions=environment.library_versions(),
    )
