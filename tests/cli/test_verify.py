"""Artifacts verified and run by `verify` and `generate`, and refused where they were altered."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from program import refuse, run, succeed


def test_verify_and_generate(finished: Path, whole_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pythia_quant.artifacts.artifact import open_artifact
    from pythia_quant.artifacts.generate import continue_text
    from pythia_quant.artifacts.pieces import Wish
    from pythia_quant.runtimes.sampling import Sampling

    parent = finished / "out/tiny/local"
    monkeypatch.setenv("COLUMNS", "80")
    printed = succeed("verify", *(parent / name for name in ("bnb-nf4", "gptq-int4", "onnx-int8", "onnx-fp32")))
    assert printed.count("files as in the manifest") == 4
    assert printed.count(f"weights are those of {whole_run / 'tiny'}") == 4
    assert printed.endswith("\nA manifest proves integrity, not origin: for that, add --key FILE or --rederive.\n")
    assert (
        max(len(line) for line in printed.splitlines() if str(parent) not in line and str(whole_run) not in line) <= 80
    )
    arguments = ("generate", parent / "onnx-fp32", "--prompt", "abc", "--max-new-tokens", "5")
    greedy = json.loads(succeed(*arguments, "--json"))
    assert len(greedy["prompt_tokens"]) == 3
    assert 0 < len(greedy["tokens"]) <= 5
    assert succeed(*arguments).startswith("abc")
    sampled = json.loads(succeed(*arguments, "--temperature", "2", "--seed", "1", "--json"))
    wishes = [Wish(5, Sampling(2.0, seed=seed)) for seed in (1, 2)]
    again, other = (continue_text(open_artifact(parent / "onnx-fp32"), "abc", wish) for wish in wishes)
    assert sampled["tokens"] == again.tokens != other.tokens
    assert "exceed the context" in refuse(*arguments[:-1], "40")


def test_an_artifact_is_derived_again_byte_for_byte(finished: Path, tmp_path: Path) -> None:
    folder = finished / "out/tiny/local/onnx-fp32"
    printed = " ".join(succeed("verify", folder, "--rederive").split())
    assert "derived again from its source: all" in printed
    forged = tmp_path / "onnx-fp32"
    shutil.copytree(folder, forged)
    data = next(forged.glob("onnx/*_data"))
    content = bytearray(data.read_bytes())
    values = np.frombuffer(content, "<f4", len(content) // 4)
    place = int(np.argmax((abs(values) > 0.01) & (abs(values) < 0.9) & (np.arange(len(values)) > len(values) // 2)))
    del values
    content[4 * place + 2] ^= 1  # a bit of one value, which rounding explains
    data.write_bytes(content)
    manifest = json.loads((forged / "pythia_quant.json").read_text())
    manifest["files"][f"onnx/{data.name}"]["sha256"] = hashlib.sha256(content).hexdigest()
    (forged / "pythia_quant.json").write_text(json.dumps(manifest))
    assert "weights are those of" in succeed("verify", forged), "whoever changes an artifact can write a manifest"
    message = refuse("verify", forged, "--rederive")
    assert "is not what its recipe makes here" in message
    assert "of its norm" in message


def test_onnx_continues_a_text_as_transformers_does(finished: Path) -> None:
    from pythia_quant.artifacts.artifact import open_artifact
    from pythia_quant.artifacts.generate import continue_text
    from pythia_quant.artifacts.pieces import Wish
    from pythia_quant.runtimes.protocol import generate
    from pythia_quant.runtimes.transformers import open_model

    ours = continue_text(open_artifact(finished / "out/tiny/local/onnx-fp32"), "eval 12", Wish(8))
    theirs = generate(open_model(finished / "tiny", torch.float32), torch.tensor(ours.prompt_tokens), 8, ends=(0,))
    assert ours.tokens == theirs
    assert len(ours.tokens) == 8


def test_an_altered_artifact_is_refused(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "onnx-fp32"
    shutil.copytree(finished / "out/tiny/local/onnx-fp32", copy)
    data = next(copy.glob("onnx/*_data"))
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    assert "onnx_data was changed" in refuse("verify", copy)
    assert "onnx_data was changed" in refuse("bench", copy)
    data.unlink()
    assert "onnx_data is missing" in refuse("verify", copy)
    assert "no artifact of ours" in refuse("verify", tmp_path)
    (copy / "pythia_quant.json").write_text('{"schema_version": 2}')
    assert "newer pythia-quant" in refuse("verify", copy)


def test_json_has_the_findings_also_of_an_artifact_that_is_refused(finished: Path, whole_run: Path) -> None:
    folder = finished / "out/tiny/local/onnx-fp32"
    (found,) = json.loads(succeed("verify", folder, "--json"))
    assert found["artifact"] == found["folder"] == str(folder)
    assert found["verified"] is True
    assert found["files"] == len(json.loads((folder / "pythia_quant.json").read_text())["files"])
    assert 0 <= found["kl_as_run"] < 1e-6
    assert found["source"] == str(whole_run / "tiny")
    (folder / "config.json").unlink()
    done = run("verify", folder.with_name("bnb-nf4"), folder, "--json")
    assert done.returncode == 2
    assert [one["verified"] for one in json.loads(done.stdout)] == [True, False]
    assert json.loads(done.stdout)[1]["error"] in done.stderr
