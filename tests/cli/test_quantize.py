"""One artifact without a recipe, and single settings of a recipe by their keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from program import refuse, run, succeed
from tiny import write_checkpoint, write_texts

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.core.errors import RecipeError
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.recipe.set_keys import parse_assignments, set_keys


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_texts(tmp_path)
    return write_checkpoint(tmp_path / "mine")


def test_a_model_is_quantized_and_its_recipe_converts_it_again(model: Path, tmp_path: Path) -> None:
    texts = ("--text", tmp_path / "evaluation.txt", "--calibration", tmp_path / "calibration.txt")
    command = ("quantize", model, "--bits", "3", "--group-size", "32", *texts, "--out", tmp_path / "out", "-q")
    recipe, folder = tmp_path / "out/mine/local/gptq-int3-g32.yaml", tmp_path / "out/mine/local/gptq-int3-g32"
    printed = succeed(*command)
    assert f"in {folder}\nIts recipe: {recipe}\n" in printed
    assert open_artifact(folder).settings.model_dump()["bits"] == 3
    assert "is there already" in succeed(*command)
    assert "gptq-int3-g32 is there already" in succeed("convert", recipe, "--out", tmp_path / "out", "-q")


def test_bench_measures_the_artifact_at_once(model: Path, tmp_path: Path) -> None:
    texts = ("--text", tmp_path / "evaluation.txt", "--set", "evaluation.windows=3", "--set", "latency.rounds=0")
    command = ("quantize", model, "--method", "onnx-int8", *texts, "--out", tmp_path / "out", "-q")
    done = run(*command, "--bench")
    assert done.returncode == 0, done.stderr
    assert "torch-fp16" in done.stdout
    written = tmp_path / "out/mine/local/results.json"
    measured = json.loads(succeed(*command, "--bench", "--json"))
    assert measured["results"] == json.loads(written.read_text())
    assert (measured["variant"], measured["was_there"]) == ("onnx-int8", True)
    assert Path(measured["recipe"]) == tmp_path / "out/mine/local/onnx-int8.yaml"
    assert "results" not in json.loads(succeed(*command, "--json"))


def test_what_cannot_be_is_refused_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    text, out = ("--text", tmp_path / "evaluation.txt"), ("--out", tmp_path / "out")
    assert "did you mean 'gptq-int4'?" in refuse("quantize", model, "--method", "gptq-int44", *out)
    assert "--bits: gptq has no 5 bits; choose from: 2, 3, 4, 8" in refuse("quantize", model, "--bits", "5", *out)
    assert "choose from: 32, 64" in refuse("quantize", model, *text, *out, "-q")
    assert "there is no such folder" in refuse("quantize", tmp_path / "nothing", *out)
    assert not (tmp_path / "out").exists()


def test_a_setting_is_replaced_by_its_key(recipe_file: Path, tmp_path: Path) -> None:
    keys = ("--set", "variants.gptq-int4.bits=8", "--set", "variants.gptq-int4.group_size=64")
    succeed("convert", recipe_file, "--only", "gptq-int4", *keys, "--out", tmp_path / "out", "-q")
    settings = open_artifact(tmp_path / "out/tiny/local/gptq-int4").settings.model_dump()
    assert (settings["bits"], settings["group_size"]) == (8, 64)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("variants.gptq-int44.bits=3", "there is no variant 'gptq-int44'; did you mean 'gptq-int4'?"),
        ("variants.gptq-int4.bit=3", "unknown key 'bit'; did you mean 'bits'?"),
        ("variants.gptq-int4.bits=5", "5 is not possible; choose from: 2, 3, 4, 8"),
        ("latencyy.rounds=1", "unknown key 'latencyy'; did you mean 'latency'?"),
        ("schema.version=1", "schema has no settings below it"),
        ("latency.rounds", "is no key with a value"),
        ("latencyy=", "unknown key 'latencyy'; did you mean 'latency'?"),
        ("latency.round=", "unknown key 'round'; did you mean 'rounds'?"),
        ("variants.gptq-int4.bits=[3", "'[3' is not a plain value of YAML"),
        ("variants.gptq-int4.bits=!!python/name:os.system", "is not a plain value of YAML"),
    ],
)
def test_a_key_or_value_that_cannot_be_is_named(recipe_file: Path, assignment: str, message: str) -> None:
    printed = " ".join(refuse("convert", recipe_file, "--set", assignment).split())
    key = assignment.partition("=")[0]
    assert printed.startswith(f"error: --set {key}")
    assert message in printed
    assert f"{key}: {key}: " not in printed


def test_settings_below_names_with_points_and_new_ones_are_reached() -> None:
    recipe = load_recipe("demo")
    tensors = {"variants.onnx-int8.tensors": {"layers.0.attention.dense": {"weights": "fp32"}}}
    changed = set_keys(recipe, tensors)
    changed = set_keys(changed, {"variants.onnx-int8.tensors.layers.0.attention.dense.weights": "int4"})
    assert changed.canonical()["variants"]["onnx-int8"]["tensors"] == {"layers.0.attention.dense": {"weights": "int4"}}
    gate = set_keys(recipe, parse_assignments(["gates.onnx-fp32.max_kl=0.1 mnat", "gates.onnx-int8.max_kl="]))
    assert gate.settings.gates["onnx-fp32"].max_kl == 0.1
    assert gate.settings.gates["onnx-int8"].max_kl is None
    assert "gates.onnx-int8.max_kl" not in gate.settings.basis, "what it says is of the value that was replaced"
    assert recipe.canonical() == load_recipe("demo").canonical(), "the recipe itself is as it was"
    with pytest.raises(RecipeError, match="is given twice"):
        parse_assignments(["latency.rounds=1", "latency.rounds=2"])
