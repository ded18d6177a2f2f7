"""Conversions by `convert`: what they refuse, and what they leave when they fail or are stopped."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from program import refuse, run, succeed
from safetensors.torch import load_file, save_file
from shared import linked
from tiny import TINY
from waiting import names_below

from pythia_quant.artifacts.artifact import open_artifact, verify_files


def test_another_artifact_in_the_way_is_kept_unless_overwritten(finished: Path, tmp_path: Path) -> None:
    out = linked(finished / "out", tmp_path / "out")
    recipe = finished / "changed.yaml"
    recipe.write_text((finished / "tiny.yaml").read_text().replace("{format: onnx}", "{format: onnx, block_size: 32}"))
    message = refuse("convert", recipe, "--only", "onnx-int8", "--out", out)
    assert "different settings" in message and "--overwrite" in message  # noqa: PT018
    assert open_artifact(out / "tiny/local/onnx-int8").manifest.settings["block_size"] == 64
    succeed("convert", recipe, "--only", "onnx-int8", "--out", out, "--overwrite")
    assert open_artifact(out / "tiny/local/onnx-int8").manifest.settings["block_size"] == 32


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def poison(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"][3, 7] = torch.nan
    save_file(weights, folder / "model.safetensors")


def make_llama(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))


def lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(TINY.tensor_shapes(), "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"model\.safetensors: cannot be read"),
        (poison, "1 of 16,384 values of .*dense_4h_to_h.weight are not finite"),
        (make_llama, "'llama'; only gpt_neox"),
        (lose_a_shard, "shard model-00001-of-00001.safetensors is missing"),
    ],
)
@pytest.mark.parametrize("variant", ["onnx-int8", "gptq-int4", "bnb-nf4"])
def test_a_damaged_source_leaves_nothing_behind(
    recipe_file: Path, damage: Callable[[Path], None], message: str, variant: str
) -> None:
    damage(recipe_file.parent / "tiny")
    out = recipe_file.parent / "out"
    assert re.search(message, refuse("convert", recipe_file, "--only", variant, "--out", out))
    assert not [path for path in out.rglob("*") if path.is_file() or path.name.startswith(".")]


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file of this process grow beyond 40,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("variant", ["onnx-fp32", "gptq-int4", "bnb-nf4"])
def test_a_file_that_cannot_be_written_leaves_nothing_behind(recipe_file: Path, variant: str) -> None:
    out = recipe_file.parent / "out"
    with small_files():
        message = refuse("convert", recipe_file, "--only", variant, "--out", out)
    assert "cannot be written" in message
    assert not [path for path in out.rglob("*") if path.is_file() or path.name.startswith(".")]


def test_calibration_text_that_is_the_evaluation_text_is_refused(recipe_file: Path) -> None:
    folder = recipe_file.parent
    message = refuse("convert", recipe_file, "--calibration", folder / "evaluation.txt", "--out", folder / "out")
    assert "share 13 tokens in a row" in message


def conversion_of_fp32(recipe: Path, out: Path) -> list[str]:
    """Return a command to start as a process of its own."""
    return [sys.executable, "-m", "pythia_quant", "convert", str(recipe), "--only", "onnx-fp32", "--out", str(out)]


def test_a_conversion_that_is_killed_can_be_run_again(recipe_file: Path) -> None:
    out = recipe_file.parent / "out"
    command = conversion_of_fp32(recipe_file, out)
    target = out / "tiny/local/onnx-fp32"
    for seconds in (1.0, 2.5, 4.0):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not target.exists():
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        if target.exists():
            verify_files(open_artifact(target))
            shutil.rmtree(target)
    succeed("convert", recipe_file, "--only", "onnx-fp32", "--out", out)
    verify_files(open_artifact(target))
    assert [path.name for path in target.parent.iterdir()] == ["onnx-fp32"]


def test_an_interrupted_conversion_says_so_and_leaves_nothing(recipe_file: Path) -> None:
    out = recipe_file.parent / "out"
    command = conversion_of_fp32(recipe_file, out)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while child.poll() is None and not any(name.startswith(".onnx-fp32.partial-") for name in names_below(out)):
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    printed, complaint = child.communicate()
    assert (child.returncode, printed) == (130, "")
    assert complaint.splitlines()[-1] == "interrupted; the same command goes on with what is missing"
    assert not [path for path in out.rglob("*") if path.is_file() or path.name.startswith(".")]


def test_quiet_prints_the_result_only_and_verbose_what_is_done_inside_a_step(finished: Path) -> None:
    arguments = ("convert", finished / "tiny.yaml", "--only", "onnx-fp32", "--out")
    quiet = run(*arguments, finished / "out", "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert re.match(r"onnx-fp32 is there already: \d+\.\d\d bits a weight, ", quiet.stdout)
    refused = run("convert", finished / "tiny.yaml", "--only", "onnx-fp23", "--quiet")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    verbose = run(*arguments, finished / "new", "-v").stderr
    assert "[2/2] converting onnx-fp32: checking" in verbose
    assert "checking" not in run(*arguments, finished / "newer").stderr, "what one command was told holds for it alone"
    assert "contradict each other" in refuse(*arguments, finished / "out", "--quiet", "-v")


def test_an_artifact_that_is_there_is_said_to_be(finished: Path) -> None:
    done = run("convert", finished / "tiny.yaml", "--only", "onnx-fp32", "--out", finished / "out")
    assert re.search(r"^\[2/2\] onnx-fp32 is there already, 0 s, ", done.stderr, re.MULTILINE)
    assert "converting" not in done.stderr


def test_json_says_of_each_artifact_what_it_is_and_whether_it_was_there(finished: Path) -> None:
    arguments = ("convert", finished / "tiny.yaml", "--only", "onnx-fp32", "--only", "bnb-nf4", "--json", "--out")
    there, made = (json.loads(succeed(*arguments, finished / name)) for name in ("out", "new"))
    manifest = open_artifact(finished / "new/tiny/local/onnx-fp32").manifest
    assert made[-1] == {
        "folder": str(finished / "new/tiny/local/onnx-fp32"), "variant": "onnx-fp32", "model": manifest.source.model,
        "revision": "local", "commit": None, "bytes_on_disk": manifest.bytes_on_disk,
        "bits_per_weight": manifest.bits_per_weight, "was_there": False,
    }  # fmt: skip
    assert [(one["variant"], one["was_there"]) for one in there] == [("bnb-nf4", True), ("onnx-fp32", True)]
