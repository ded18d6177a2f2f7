"""The main job as a user calls it: arguments in, files, text and exit codes out."""

import json
import re
from pathlib import Path
from typing import Literal

import measured
import pytest
import torch
from loopback import client_environment, loopback_hub
from passages import write_passages
from program import run, succeed
from tiny import TINY, random_weights, write_checkpoint
from typer.testing import CliRunner

from pythia_quant.artifacts.artifact import open_artifact, verify_files
from pythia_quant.cli.main import app
from pythia_quant.library.main_job import Outcome
from pythia_quant.recipe.recipe import Recipe
from pythia_quant.records.results import GateOutcome, load_results


def test_run_prints_one_table_within_100_columns_and_keeps_everything(finished: Path) -> None:
    table = (finished / "table.txt").read_text()
    assert max(map(len, table.splitlines()[:-1])) <= 100  # the last line is a path
    rows = ["torch-fp16", "torch-bf16", "torch-fp32", "bnb-nf4", "gptq-int4", "onnx-int8", "onnx-fp32"]
    for name in rows:
        assert re.search(rf"^{name} ", table, re.MULTILINE)
    results = load_results(finished / "out/tiny/local/results.json")
    assert [row.name for row in results.rows] == rows
    assert all(row.as_run and len(row.as_run.kl) == 6 and row.speeds for row in results.rows)
    assert {gate.variant for gate in results.gates} == {"onnx-int8"}
    for variant in rows[3:]:
        verify_files(open_artifact(finished / "out/tiny/local" / variant))


def test_what_is_written_may_be_read_by_whom_the_umask_lets(finished: Path) -> None:
    probe = finished / "probe"
    probe.touch()
    files = {path: path.stat().st_mode for path in (finished / "out").rglob("*") if path.is_file()}
    assert {path.name for path, mode in files.items() if mode != probe.stat().st_mode} == set()
    assert {path.suffix for path in files} >= {".safetensors", ".onnx", ".onnx_data", ".json"}


def test_measured_drift_is_that_of_the_weights_for_exact_runtimes(finished: Path) -> None:
    results = load_results(finished / "out/tiny/local/results.json")

    def as_run(name: str) -> list[float]:
        drift = results.row(name).as_run
        assert drift is not None
        return drift.kl

    assert max(as_run("torch-fp32")) < 1e-9
    assert max(as_run("onnx-fp32")) < 1e-9
    for name in ("bnb-nf4", "gptq-int4", "onnx-int8"):
        row = results.row(name)
        assert row.weights is not None
        weights, run = sum(row.weights.kl), sum(as_run(name))
        assert 0 < weights < 2 * run < 20 * weights


def test_every_row_counts_the_files_that_hold_weights(finished: Path) -> None:
    results = load_results(finished / "out/tiny/local/results.json")
    shown, parameters = (finished / "table.txt").read_text(), results.source.parameters
    in_fp16 = (finished / "tiny/model.safetensors").stat().st_size
    for row in results.rows:
        files = [*(finished / "out/tiny/local" / row.name).rglob("model*")]
        if row.name in ("torch-bf16", "torch-fp32"):  # no such file; its header has longer words and numbers
            wider = 2 * parameters if row.name == "torch-fp32" else 0
            assert row.disk_bytes == pytest.approx(in_fp16 + wider, abs=100)
        else:
            assert row.disk_bytes == (sum(path.stat().st_size for path in files) or in_fp16)
        assert row.bits_per_weight == 8 * row.disk_bytes / parameters
        size = f"{row.bits_per_weight:.2f} +{row.disk_bytes / 1e6:.1f}"
        assert re.search(rf"^{row.name} .* {size}( |$)", shown, re.MULTILINE)
    assert "Bits, disk all of the files that hold weights; of torch rows, a safetensors file" in " ".join(shown.split())


def test_run_again_finds_the_artifacts_there_and_keeps_the_earlier_results(finished: Path) -> None:
    before = open_artifact(finished / "out/tiny/local/onnx-fp32").manifest.created
    printed = succeed("convert", finished / "tiny.yaml", "--out", finished / "out")
    assert printed.count("bits a weight") == 4
    assert open_artifact(finished / "out/tiny/local/onnx-fp32").manifest.created == before


def test_lambada_is_measured_when_it_is_asked_for(recipe_file: Path) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("rounds: 1", "rounds: 0"))
    passages, out = write_passages(recipe_file.parent), recipe_file.parent / "out"
    options = ("--only", "onnx-fp32", "--lambada", passages, "--out", out)
    printed = succeed("run", recipe_file, *options, "--json")
    results = load_results(out / "tiny/local/results.json")
    assert json.loads(printed) == json.loads((out / "tiny/local/results.json").read_text())
    assert results.lambada is not None
    assert results.lambada.examples == 5
    scores = [row.lambada for row in results.rows]
    assert all(score is not None and len(score.log_likelihood) == 5 for score in scores)
    assert scores[2] is not None
    assert scores[3] is not None
    assert scores[3].log_likelihood == pytest.approx(scores[2].log_likelihood, rel=1e-4)


def test_a_hub_model_is_converted_under_its_name_and_revision(recipe_file: Path, tmp_path: Path) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("rounds: 1", "rounds: 0"))
    with loopback_hub() as hub:
        step = write_checkpoint(tmp_path / "step")
        (step / "model.safetensors").unlink()  # many step revisions hold only a pickle
        torch.save(random_weights(TINY, seed=3), step / "pytorch_model.bin")
        hub.add("someone/tiny", {"main": tmp_path / "tiny", "step3000": step})
        environment = client_environment(hub, tmp_path / "home")
        options = (
            "--model",
            "someone/tiny",
            "--revision",
            "step3000",
            "--only",
            "onnx-fp32",
            "--out",
            tmp_path / "out",
        )
        succeed("run", recipe_file, *options, environment=environment)
        folder = tmp_path / "out/someone--tiny/step3000/onnx-fp32"
        manifest = open_artifact(folder).manifest
        assert (manifest.source.revision, manifest.source.commit) == (
            "step3000",
            hub.head("someone/tiny", "step3000"),
        )
        assert "hf_secret" not in (folder / "pythia_quant.json").read_text()
        offline = environment | {"HF_HUB_OFFLINE": "1"}
        results = json.loads(succeed("bench", folder, "--json", environment=offline))
        assert (results["source"]["revision"], results["source"]["commit"]) == ("step3000", manifest.source.commit)


def test_several_revisions_are_run_in_turn_and_those_before_a_refusal_are_kept(
    recipe_file: Path, tmp_path: Path
) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("rounds: 1", "rounds: 0"))
    first = write_checkpoint(tmp_path / "first", weights=random_weights(TINY, seed=1))
    second = write_checkpoint(tmp_path / "second")
    (second / "tokenizer.json").unlink()
    with loopback_hub() as hub:
        hub.add("someone/tiny", {"main": tmp_path / "tiny", "step1000": first, "step2000": second})
        environment = client_environment(hub, tmp_path / "home")
        options = ("--model", "someone/tiny", "--only", "onnx-fp32", "--out", tmp_path / "out")
        several = ("--revision", "step1000,step2000")
        done = run("run", recipe_file, *options, *several, environment=environment)
    assert done.returncode == 2
    assert re.search("^error: step2000: .*: has no tokenizer.json", done.stderr, re.MULTILINE)
    assert done.stderr.endswith("\n  kept, done before it: step1000\n")
    assert "hf_secret" not in done.stdout + done.stderr
    folder = tmp_path / "out/someone--tiny/step1000"
    assert f"Artifacts and results.json are in {folder}\n" in done.stdout
    assert load_results(folder / "results.json").source.revision == "step1000"
    assert open_artifact(folder / "onnx-fp32").manifest.source.commit == hub.head("someone/tiny", "step1000")
    assert [path.name for path in folder.parent.iterdir()] == ["step1000"]


def test_the_exit_code_is_of_the_worst_gate_at_any_revision(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at: list[str] = []

    def run_one(recipe: Recipe, *_: object) -> Outcome:
        at.append(recipe.settings.source.revision)
        outcome: Literal["passed", "failed"] = "failed" if len(at) == 1 else "passed"
        gate = GateOutcome(variant="v", gate="max_kl", limit=1, value=1, low=0, high=2, outcome=outcome)
        results = measured.results(measured.row("torch-fp16", 0)).model_copy(update={"gates": [gate]})
        return Outcome([], results, Path("results.json"))

    monkeypatch.setattr("pythia_quant.cli.jobs.run", run_one)
    monkeypatch.setattr("pythia_quant.report.terminal.print_results", lambda *_, **__: None)
    arguments = ["run", str(recipe_file), "--model", "EleutherAI/pythia-14m", "--revision", "step512..step2000"]
    assert CliRunner().invoke(app, arguments).exit_code == 3
    assert at == ["step512", "step1000", "step2000"]


def test_a_range_of_revisions_needs_a_model_of_the_suite(recipe_file: Path) -> None:
    refused = CliRunner().invoke(app, ["convert", str(recipe_file), "--revision", "step1000..step2000"])
    assert "the model is not of the suite" in str(refused.exception)
