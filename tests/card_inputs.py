"""Manifests of the demo recipe's variants with results made by hand, as they are published."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

import measured

from pythia_quant.bench.gates import evaluate_gates
from pythia_quant.recipe.measurement import GateSettings
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.records.manifest import CalibrationRecord, CheckRecord, FileRecord, Manifest, SourceRecord, TextRecord
from pythia_quant.records.protocols import LambadaProtocol
from pythia_quant.records.results import Lambada, Results

COMMIT = "50f5173d932e8e61f858120bcb800b97af589f46"
HUB = SourceRecord(
    model="EleutherAI/pythia-70m", revision="step3000", commit=COMMIT, sha256={"model.safetensors": "d3" * 32},
    parameters=70_426_624,
)  # fmt: skip
DEMO = HUB.model_copy(update={"model": "builtin:demo", "revision": "builtin", "commit": None})
FOLDER = DEMO.model_copy(update={"model": "my-pythia", "revision": "local"})
TEXT = TextRecord(name="held-out documents", sha256="97" * 32, tokens=1280, bytes=4000)
GATES = {
    "passed": GateSettings(max_ppl_drift=50.0),
    "failed": GateSettings(max_ppl_drift=0.1),
    "undecided": GateSettings(max_ppl_drift=2.0),
}


def size(name: str) -> int:
    """Return the bytes of a file: 9.835 bits a weight, and about as much of a tokenizer as Pythia has."""
    return {".onnx": 500_000, ".onnx_data": 86_081_000, ".safetensors": 86_581_000}.get(
        PurePath(name).suffix, 2_000_000
    )


def manifest(variant: str = "gptq-int4", source: SourceRecord = HUB, **settings: Any) -> Manifest:
    """Return the manifest of a variant; `settings` are instead of the recipe's."""
    recipe = load_recipe("demo").canonical()
    recipe["variants"][variant] |= settings
    chosen = recipe["variants"][variant]
    graph = ["onnx/model_quantized.onnx", "onnx/model_quantized.onnx_data"]
    names = ["config.json", "tokenizer.json", *(graph if chosen["format"] == "onnx" else ["model.safetensors"])]
    solved = "gptq" in (chosen["format"], chosen.get("codes", "")[:4])
    return Manifest(
        tool="pythia-quant 0.1.0", created=datetime(2026, 11, 21, 10, 34, tzinfo=UTC), variant=variant, settings=chosen,
        recipe_name="demo", recipe_id="233f75d22c85", recipe=recipe | {"source": {"model": source.model}},
        source=source, cpu="AMD EPYC (avx2 avx512f)",
        calibration=CalibrationRecord(text=TEXT, windows=128, context=512, seed=0) if solved else None,
        versions={"python": "3.11.7", "torch": "2.13.0"}, notes={},
        check=CheckRecord(
            method="whole model", max_weight_error=0.0, runtime="ours", run_error=0.004, kl_as_run=6.65e-5, generated=[]
        ),
        files={name: FileRecord(bytes=size(name), sha256=f"{index:02d}" * 32) for index, name in enumerate(names)},
    )  # fmt: skip


def results(of: Manifest, gate: str = "passed", *, lambada: bool = False, **row: Any) -> Results:
    """Return results with the variant's row, changed by `row`, and those of the source."""
    ours = measured.row("variant", 0.02, noise=0.02, top1=0.92, decode=0.005)
    ours = ours.model_copy(update={"name": of.variant, "runtime": "torch int4 kernel", "weights": ours.as_run} | row)
    run = measured.results(measured.row("torch-fp16", 0.0001), measured.row("torch-fp32", 0), ours)
    run = run.model_copy(update={"source": of.source, "text": TEXT})
    if lambada:
        scores = Lambada(log_likelihood=[-1.0, -2.0] * 50, greedy=[True, True, True, False] * 25)
        run.rows[-1] = ours.model_copy(update={"lambada": scores})
        protocol = LambadaProtocol(file="lambada.jsonl", sha256="4a" * 32, examples=5_153)
        run = run.model_copy(update={"lambada": protocol})
    gates = {of.variant: GATES[gate]} if gate else {}
    return run.model_copy(update={"gates": evaluate_gates(run, gates)})
