"""An artifact that is a little wrong, and says in its manifest that it is right, fails the gates of its recipe."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from measured import results

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.bench.gates import describe_gate, evaluate_gates
from pythia_quant.bench.quality import measure_drift
from pythia_quant.bench.reference import Reference, open_reference
from pythia_quant.bench.subject import Subject
from pythia_quant.core.progress import SILENT
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.records.protocols import Protocol
from pythia_quant.records.results import GateOutcome, Row
from pythia_quant.texts.builtin import documents

VARIANT, LAYER = "onnx-int8", 2


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Open the demo with a part of its text: to find what of all of it is in the training text takes long."""
    text = tmp_path_factory.mktemp("text") / "held-out.txt"
    text.write_text("\n\n".join(document.text for document in documents() if document.held_out)[:200_000])
    return load_inputs(override(load_recipe("demo"), text=text), only=[VARIANT])


@pytest.fixture(scope="module")
def kept(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    ids = torch.from_numpy(inputs.evaluation)[:20]
    return open_reference(inputs.source.weights, inputs.source.sha256, ids, SILENT, tmp_path_factory.mktemp("kept"))


def measured(inputs: Inputs, kept: Reference, folder: Path, scratch: Path) -> tuple[Row, list[GateOutcome]]:
    artifact = open_artifact(folder)
    subject = Subject(name=VARIANT, folder=folder, settings=artifact.manifest.settings).model_dump(mode="json")
    found = measure_drift(subject, str(inputs.source.folder), str(kept.folder), str(scratch), 2, whole=True)
    row = Row.model_validate(found | {"name": VARIANT, "quantized": True, "bits_per_weight": 8.6, "disk_bytes": 1})
    whole = results(row).model_copy(
        update={"reference_nll": kept.nll, "protocol": Protocol(context=512, windows=len(kept.ids))}
    )
    return row, evaluate_gates(whole, inputs.recipe.settings.gates)


def test_scales_of_one_layer_off_by_5_percent(inputs: Inputs, kept: Reference, tmp_path: Path) -> None:
    folder = convert(inputs, VARIANT, tmp_path / "out").folder
    sound, gates = measured(inputs, kept, folder, tmp_path / "sound")
    assert {gate.outcome for gate in gates} == {"passed"}

    doctor(folder)
    row, gates = measured(inputs, kept, folder, tmp_path / "doctored")
    outcomes = {gate.gate: gate for gate in gates}
    assert outcomes["max_kl"].outcome == "failed"
    assert outcomes["min_top1"].outcome == "failed"
    assert "mnat beyond it" in describe_gate(outcomes["max_kl"])
    errors = [after.alone / before.alone for before, after in zip(sound.layers, row.layers, strict=True)]
    assert errors.index(max(errors)) == LAYER
    assert errors[LAYER] > 5
    assert max(errors[:LAYER] + errors[LAYER + 1 :]) == pytest.approx(1, abs=0.05)


def doctor(folder: Path) -> None:
    path = folder / "onnx" / "model_quantized.onnx"
    data_path = path.with_name(f"{path.name}_data")
    data, changed = bytearray(data_path.read_bytes()), 0
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.name.startswith(f"layers.{LAYER}.") and tensor.name.endswith("scales") and tensor.external_data:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            place = slice(int(entries["offset"]), int(entries["offset"]) + int(entries["length"]))
            data[place] = (np.frombuffer(data[place], np.float32) * np.float32(1.05)).tobytes()
            changed += 1
    assert changed
    data_path.write_bytes(data)
