import json
import os
import shutil
import time
from pathlib import Path

import pytest
from hub_user import SOURCE
from program import refuse, run, succeed

from pythia_quant.artifacts.artifact import artifact_folders, open_artifact, verify_files
from pythia_quant.artifacts.listing import integrity
from pythia_quant.core import file_hashes
from pythia_quant.core.file_hashes import sha256_anew


def test_artifacts_are_listed_with_size_drift_and_state(artifacts: Path) -> None:
    listed = json.loads(succeed("ls", artifacts.parent.parent, "--json"))
    assert [entry["variant"] for entry in listed] == ["bnb-nf4", "gptq-int4", "onnx-int8"]
    onnx = listed[-1]
    manifest = open_artifact(artifacts / "onnx-int8").manifest
    assert (onnx["model"], onnx["bytes_on_disk"]) == (SOURCE, manifest.bytes_on_disk)
    assert onnx["bits_per_weight"] == pytest.approx(manifest.bits_per_weight)
    assert onnx["drift"]["kl"]["low"] < onnx["drift"]["kl"]["value"] < onnx["drift"]["kl"]["high"]
    assert onnx["files"] == "verified", "small files are read"
    printed = succeed("ls", artifacts)
    assert f"onnx-int8  {SOURCE}" in printed
    assert f"{onnx['drift']['kl']['value']:.2f} ±" in printed


def test_what_was_not_measured_or_was_altered_is_listed_as_such(artifacts: Path, tmp_path: Path) -> None:
    (artifacts / "results.json").unlink()
    config = artifacts / "onnx-int8" / "config.json"
    config.write_text(config.read_text().replace("{", "{ ", 1))
    (artifacts / "gptq-int4" / "model.safetensors").unlink()
    entries = {entry["variant"]: entry for entry in json.loads(succeed("ls", artifacts, "--json"))}
    assert all(entry["drift"] == {} and entry["measured"] is None for entry in entries.values())
    assert {name: entry["files"] for name, entry in entries.items()} == {
        "bnb-nf4": "verified", "gptq-int4": "altered", "onnx-int8": "altered",
    }  # fmt: skip
    (artifacts / "bnb-nf4" / "pythia_quant.json").write_text("{")
    done = run("ls", artifacts)
    assert done.returncode == 2
    assert "bnb-nf4" in done.stderr
    assert "onnx-int8" in done.stdout, "the others are listed all the same"
    assert "is no folder" in refuse("ls", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "There are no artifacts below" in succeed("ls", tmp_path / "empty")


def test_a_large_file_is_verified_only_while_it_is_as_it_was_hashed(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHIA_QUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "_LEAST_BYTES", 1)
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", 0)
    artifact = open_artifact(artifacts / "onnx-int8")
    assert integrity(artifact) == "not verified"
    verify_files(artifact, sha256_anew)
    assert integrity(artifact) == "verified"
    weights = artifact.folder / "onnx" / "model_quantized.onnx_data"
    content = weights.read_bytes()
    weights.write_bytes(content)
    os.utime(weights, (time.time() + 5, time.time() + 5))
    assert integrity(artifact) == "not verified", "it was written again"
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    sha256_anew(weights)
    assert integrity(artifact) == "altered"
    shutil.rmtree(artifact.folder / "onnx")
    assert integrity(artifact) == "altered"
    assert artifact_folders(artifacts)[-1] == artifact.folder
