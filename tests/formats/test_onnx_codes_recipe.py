"""A recipe whose ONNX variant takes the integers of its GPTQ variant: what is refused, converted, reused and mended."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import program
import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file
from stored_codes import gptq_integers, onnx_tensors, spread
from tiny import write_recipe

from pythia_quant.artifacts.artifact import hash_files, open_artifact, verify_files
from pythia_quant.cli.jobs import convert_all
from pythia_quant.core.errors import ArtifactError, RecipeError
from pythia_quant.model.architecture import layer_name
from pythia_quant.recipe.recipe import load_recipe

VARIANT = "  onnx-int4: {format: onnx, codes: gptq-int4, weights: int4, block_size: 32}\n"
"""Is line 14 of the tiny recipe, in front of its gates."""


def with_codes(recipe: Path) -> Path:
    recipe.write_text(recipe.read_text().replace("gates:\n", f"{VARIANT}gates:\n"))
    return recipe


@pytest.fixture
def recipe(recipe_file: Path) -> Path:
    return with_codes(recipe_file)


def edited(recipe: Path, before: str, after: str) -> Path:
    text = recipe.read_text()
    assert text.count(before) == 1
    recipe.write_text(text.replace(before, after))
    return recipe


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("codes: gptq-int4", "codes: gptq-int5", "codes: 'gptq-int5' is no variant; did you mean 'gptq-int4'"),
        ("codes: gptq-int4", "codes: onnx-int8", "codes: 'onnx-int8' has format onnx, and only gptq has"),
        ("codes: gptq-int4", "codes: onnx-int4", "codes: 'onnx-int4' has format onnx"),
        ("codes: gptq-int4", "codes: 4", "codes: 4 is of the wrong type"),
        ("weights: int4", "weights: int8", "weights: 'gptq-int4' has codes of 4 bits; say weights: int4"),
        ("weights: int4, ", "", "weights: 'gptq-int4' has codes of 4 bits; say weights: int4"),
        ("block_size: 32}\n", "block_size: 64}\n", "block_size: 'gptq-int4' has groups of 32; say block_size: 32"),
        ("group_size: 32", "bits: 8, group_size: 32", "weights: 'gptq-int4' has codes of 8 bits; say weights: int8"),
        ("group_size: 32", "bits: 3, group_size: 32", "codes: 'gptq-int4' has codes of 3 bits"),
        ("group_size: 32", "group_size: row", "codes: 'gptq-int4' has group_size: row"),
        (
            "group_size: 32",
            "group_size: 32, activation_order: dynamic",
            "codes: 'gptq-int4' has .*neighbouring inputs; dynamic groups are not",
        ),
        (
            "block_size: 32}\n",
            "block_size: 32, tensors: {head: {weights: fp32}, layers.1.attention.dense: {activations: fp32}}}\n",
            r"tensors\.layers\.1\.attention\.dense: layers are those of 'gptq-int4'",
        ),
    ],
)
def test_codes_that_cannot_be_taken_are_refused_at_their_line(
    recipe: Path, before: str, after: str, message: str
) -> None:
    load_recipe(recipe)
    edited(recipe, before, after)
    pattern = f"(?s){re.escape(str(recipe))}:14: variants.onnx-int4.{message}"
    with pytest.raises(RecipeError, match=pattern):
        load_recipe(recipe)


def test_the_head_and_the_embeddings_may_be_exceptions(recipe: Path) -> None:
    exceptions = "tensors: {head: {weights: int8-channel}, embeddings: {weights: int4}}"
    settings = load_recipe(edited(recipe, "block_size: 32}\n", f"block_size: 32, {exceptions}}}\n")).settings
    assert settings.variants["onnx-int4"].takes_codes_of() == "gptq-int4"


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """Have a file of this process that grows beyond so many bytes fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def succeed(recipe: Path, *only: str, overwrite: bool = False) -> None:
    convert_all(load_recipe(str(recipe)), recipe.parent / "out", list(only), overwrite, Console(quiet=True))


def refuse(recipe: Path, *only: str, overwrite: bool = False) -> str:
    with pytest.raises(ArtifactError) as refusal:
        succeed(recipe, *only, overwrite=overwrite)
    return str(refusal.value)


ONLY = "onnx-int4"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert the variant alone; return the folder for artifacts of all sources."""
    recipe = with_codes(write_recipe(tmp_path_factory.mktemp("converted")))
    succeed(recipe, ONLY)
    return recipe.parent / "out"


@pytest.fixture
def artifacts(recipe: Path, converted: Path) -> Path:
    """Return a folder of artifacts, as if the recipe's variant had been converted alone."""
    return shutil.copytree(converted, recipe.parent / "out") / "tiny" / "local"


def test_the_variant_alone_is_converted_calibrated_and_says_whose_integers_it_has(artifacts: Path) -> None:
    assert {path.name for path in artifacts.iterdir()} == {"gptq-int4", "onnx-int4"}
    solved, taken = (open_artifact(artifacts / name).manifest for name in ("gptq-int4", "onnx-int4"))
    assert taken.calibration == solved.calibration
    assert taken.calibration is not None
    hashes = {"model.safetensors": solved.files["model.safetensors"].sha256}
    assert taken.notes["codes"] == {"variant": "gptq-int4", "sha256": hashes}
    codes, scales, _ = gptq_integers(artifacts / "gptq-int4", f"{layer_name(1)}.mlp.dense_4h_to_h", 4)
    tensors = onnx_tensors(artifacts / "onnx-int4")
    stored = tensors["layers.1.outer.codes"]
    np.testing.assert_array_equal(spread(stored.reshape(len(stored), -1), 4, 320)[:, 64:], codes)
    np.testing.assert_array_equal(tensors["layers.1.outer.scales"][:, 2:], scales)


def test_it_is_reused_also_when_the_other_artifact_is_gone(recipe: Path, artifacts: Path) -> None:
    created = open_artifact(artifacts / "onnx-int4").manifest.created
    succeed(recipe, ONLY)
    shutil.rmtree(artifacts / "gptq-int4")
    succeed(recipe, ONLY)
    assert open_artifact(artifacts / "onnx-int4").manifest.created == created
    assert not (artifacts / "gptq-int4").exists()


def test_integers_that_are_no_longer_those_beside_it_are_refused(recipe: Path, artifacts: Path) -> None:
    folder = artifacts / "gptq-int4"
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{layer_name(0)}.attention.dense.qweight"][0, 0] ^= 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    manifest = open_artifact(folder).manifest.model_copy(update={"files": hash_files(folder)})
    (folder / "pythia_quant.json").write_text(manifest.model_dump_json())
    message = refuse(recipe, ONLY)
    assert "onnx-int4: holds an artifact made with a different gptq-int4" in message
    assert "convert onnx-int4 with --overwrite" in message
    succeed(recipe, ONLY, overwrite=True)
    succeed(recipe, ONLY)
    assert open_artifact(folder).manifest == manifest


def test_other_settings_of_the_integers_are_refused_with_and_without_their_artifact(
    recipe: Path, artifacts: Path
) -> None:
    edited(recipe, "format: gptq, ", "format: gptq, damping: 0.02, ")
    assert "onnx-int4: holds an artifact made with a different gptq-int4" in refuse(recipe, ONLY)
    message = refuse(recipe, ONLY, overwrite=True)
    assert "gptq-int4: holds an artifact made with a different settings" in message
    assert "convert gptq-int4 with --overwrite" in message
    shutil.rmtree(artifacts / "gptq-int4")
    assert "onnx-int4: holds an artifact made with a different gptq-int4" in refuse(recipe, ONLY)
    succeed(recipe, "gptq-int4", ONLY, overwrite=True)
    succeed(recipe, ONLY)


def test_an_artifact_overwritten_with_its_integers_has_the_new_ones(recipe: Path, artifacts: Path) -> None:
    """The order in the recipe does not matter: what is made of another's integers comes last."""
    text = recipe.read_text().replace(VARIANT, "").replace("  bnb-nf4", f"{VARIANT}  bnb-nf4")
    recipe.write_text(text.replace("format: gptq, ", "format: gptq, damping: 0.02, "))
    succeed(recipe, "gptq-int4", ONLY, overwrite=True)
    solved, taken = (open_artifact(artifacts / name).manifest for name in ("gptq-int4", "onnx-int4"))
    assert taken.notes["codes"]["sha256"] == {"model.safetensors": solved.files["model.safetensors"].sha256}
    assert solved.settings["damping"] == 0.02


def test_a_conversion_that_fails_leaves_the_integers_and_nothing_of_its_own(recipe: Path) -> None:
    succeed(recipe, "gptq-int4")
    with small_files(60_000):
        done = program.run("convert", recipe, "--only", ONLY, "--out", recipe.parent / "out")
    assert done.returncode == 2
    assert "onnx-int4: cannot be written" in done.stderr
    folder = recipe.parent / "out/tiny/local"
    assert [path.name for path in folder.iterdir()] == ["gptq-int4"]
    verify_files(open_artifact(folder / "gptq-int4"))


@pytest.mark.parametrize("stage", ["gptq-int4", "onnx-int4"])
def test_a_conversion_killed_at_either_stage_can_be_run_again(recipe: Path, stage: str) -> None:
    folder = recipe.parent / "out/tiny/local"
    command = [sys.executable, "-m", "pythia_quant", "convert", recipe, "--only", ONLY, "--out", recipe.parent / "out"]
    child = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and not list(folder.glob(f".{stage}.partial-*")):
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (folder / "onnx-int4").exists()
    assert (folder / "gptq-int4").exists() == (stage == "onnx-int4")
    succeed(recipe, ONLY)
    assert {path.name for path in folder.iterdir()} == {"gptq-int4", "onnx-int4"}
