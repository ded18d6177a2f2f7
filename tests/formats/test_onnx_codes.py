"""One solve, two formats: an ONNX artifact that stores the integers of a GPTQ artifact."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from gptq_models import PROBE, SHAPE, convert, source
from onnx import numpy_helper
from rich.console import Console
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file
from tiny import write_recipe

from pythia_quant.architecture import LINEARS, layer_name
from pythia_quant.artifact import hash_files, open_artifact, verify_files
from pythia_quant.errors import ArtifactError, RecipeError
from pythia_quant.formats.gptq.reader import read as read_gptq
from pythia_quant.formats.job import Job, Written
from pythia_quant.formats.onnx.external import find_model
from pythia_quant.formats.onnx.reader import read as read_onnx
from pythia_quant.formats.onnx.rotary import separate
from pythia_quant.formats.onnx.settings import OnnxSettings
from pythia_quant.formats.onnx.writer import write
from pythia_quant.layerwise import final_hidden_states, head_weight, read_layer
from pythia_quant.recipe import load_recipe
from pythia_quant.run import convert_all
from pythia_quant.runtimes import layered
from pythia_quant.runtimes.ort import open_runtime
from pythia_quant.runtimes.ort_layers import open_layers
from pythia_quant.weights import WeightFiles

Array = npt.NDArray[Any]

GRIDS = pytest.mark.parametrize(
    ("bits", "group_size", "symmetric"),
    [(4, 32, True), (4, 32, False), (4, 128, False), (8, 64, True), (8, 128, False)],
)
MEMBERS = {
    "inner": ("attention.query_key_value", "mlp.dense_h_to_4h"),
    "outer": ("attention.dense", "mlp.dense_4h_to_h"),
}


def take(weights: WeightFiles, solved: Path, folder: Path, **settings: Any) -> Written:
    """Write an ONNX artifact, but for the layers in fp32 unless told otherwise, with the integers of a GPTQ one."""
    fields = json.loads((solved / "config.json").read_text())["quantization_config"]
    chosen = {
        "codes": "gptq",
        "weights": f"int{fields['bits']}",
        "block_size": fields["group_size"],
        "activations": "fp32",
        "embeddings": "fp32",
        "head": "fp32",
    }
    folder.mkdir()
    onnx_settings = OnnxSettings.model_validate({"format": "onnx", **chosen, **settings})
    return write(Job(weights, onnx_settings, folder, PROBE, codes=read_gptq(solved)))


@pytest.fixture
def weights(tmp_path: Path) -> WeightFiles:
    return source(tmp_path / "source")


def numbers(words: Array, bits: int) -> Array:
    """Take the numbers out of 32-bit words along the first axis, the first in a word's lowest bits."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    spread = words.view(np.uint32)[:, None, :] >> shifts[:, None] & np.uint32(2**bits - 1)
    return spread.reshape(-1, words.shape[1])


def gptq_integers(folder: Path, name: str, bits: int) -> tuple[Array, Array, Array]:
    """Return codes [out, in], scales and zeros [out, groups] of a linear layer, from the format's description only."""
    stored = load_numpy(folder / "model.safetensors")
    codes, zeros = numbers(stored[f"{name}.qweight"], bits).T, numbers(stored[f"{name}.qzeros"].T, bits) + 1
    return codes, stored[f"{name}.scales"].T.astype(np.float32), zeros


def onnx_tensors(folder: Path) -> dict[str, Array]:
    """Return a model's initializers as the onnx package reads them."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(find_model(folder)).graph.initializer}


def spread(stored: Array, bits: int, count: int) -> Array:
    """Take the numbers out of bytes along the last axis, the first in a byte's low half, and keep `count` of them."""
    if bits == 4:
        stored = np.stack((stored & 15, stored >> 4), axis=-1).reshape(len(stored), -1)
    return stored[:, :count]


@GRIDS
def test_both_files_hold_the_same_integers(
    weights: WeightFiles, tmp_path: Path, bits: int, group_size: int, symmetric: bool
) -> None:
    convert(weights, tmp_path / "gptq", bits=bits, group_size=group_size, symmetric=symmetric)
    take(weights, tmp_path / "gptq", tmp_path / "onnx")
    tensors = onnx_tensors(tmp_path / "onnx")
    order = separate(torch.arange(3 * SHAPE.width), SHAPE).numpy()
    for index in range(SHAPE.layers):
        for name, members in MEMBERS.items():
            parts = [gptq_integers(tmp_path / "gptq", f"{layer_name(index)}.{member}", bits) for member in members]
            if name == "inner":
                parts[0] = tuple(part[order] for part in parts[0])
            axis = {"inner": 0, "outer": 1}[name]
            codes, scales, zeros = (np.concatenate(part, axis) for part in zip(*parts, strict=True))
            product = f"layers.{index}.{name}"
            stored = tensors[f"{product}.codes"]
            assert stored.shape[:2] == scales.shape
            np.testing.assert_array_equal(spread(stored.reshape(len(stored), -1), bits, codes.shape[1]), codes)
            np.testing.assert_array_equal(tensors[f"{product}.scales"], scales)
            if symmetric:
                assert (zeros == 2 ** (bits - 1)).all()
                assert f"{product}.zero_points" not in tensors
            else:
                found = spread(tensors[f"{product}.zero_points"], bits, zeros.shape[1])
                np.testing.assert_array_equal(found, zeros)
                assert len(np.unique(zeros)) > 2


@GRIDS
def test_the_reader_and_the_runtime_give_what_gptq_gives(
    weights: WeightFiles, tmp_path: Path, bits: int, group_size: int, symmetric: bool
) -> None:
    convert(weights, tmp_path / "gptq", bits=bits, group_size=group_size, symmetric=symmetric)
    written = take(weights, tmp_path / "gptq", tmp_path / "onnx")
    solved, stored = read_gptq(tmp_path / "gptq"), read_onnx(tmp_path / "onnx")
    for index in range(SHAPE.layers):
        expected = read_layer(solved, index)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in read_layer(stored, index).items())
    logits = final_hidden_states(solved, PROBE) @ head_weight(solved).T
    largest = float(logits.abs().max())
    run = open_runtime(tmp_path / "onnx", threads=1).logits(PROBE)
    in_layers = layered.logits(open_layers(tmp_path / "onnx", threads=1), PROBE)
    for found in (written.logits, run, in_layers):
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-4 * largest)
    onnx.checker.check_model(find_model(tmp_path / "onnx"), full_check=True)


@pytest.mark.parametrize("symmetric", [True, False])
def test_integer_activations_are_near(weights: WeightFiles, tmp_path: Path, symmetric: bool) -> None:
    convert(weights, tmp_path / "gptq", symmetric=symmetric, group_size=32)
    settings = {"activations": "int8", "embeddings": "int8", "head": "int8"}
    written = take(weights, tmp_path / "gptq", tmp_path / "onnx", **settings)
    run = open_runtime(tmp_path / "onnx", threads=1).logits(PROBE)
    assert 1e-3 < float((run - written.logits).norm() / written.logits.norm()) < 0.02


def test_only_the_products_that_need_zero_points_have_them(weights: WeightFiles, tmp_path: Path) -> None:
    """One zero of a symmetric artifact is moved; what is merged with it has the middle for zero there."""
    convert(weights, tmp_path / "gptq", group_size=32)
    path = tmp_path / "gptq/model.safetensors"
    tensors = load_file(path)
    tensors[f"{layer_name(1)}.mlp.dense_4h_to_h.qzeros"][3, 0] ^= 1 << 4  # group 3, output 1: 7 becomes 6, read as 7
    save_file(tensors, path, metadata={"format": "pt"})
    take(weights, tmp_path / "gptq", tmp_path / "onnx")
    stored = onnx_tensors(tmp_path / "onnx")
    assert [name for name in stored if name.endswith("zero_points")] == ["layers.1.outer.zero_points"]
    zeros = spread(stored["layers.1.outer.zero_points"], 4, 20)
    assert zeros[1, 4 + 3] == 7
    assert (zeros != 8).sum() == 1
    solved, read = read_gptq(tmp_path / "gptq"), read_onnx(tmp_path / "onnx")
    for name in (f"{layer_name(1)}.{linear}.weight" for linear in LINEARS):
        assert torch.equal(read.read(name), solved.read(name))


@pytest.mark.parametrize("name", ["post_attention_layernorm.weight", "mlp.dense_4h_to_h.bias"])
def test_layers_that_were_not_equalized_are_refused(weights: WeightFiles, tmp_path: Path, name: str) -> None:
    convert(weights, tmp_path / "gptq")
    path = tmp_path / "gptq/model.safetensors"
    tensors = load_file(path)
    tensors[f"{layer_name(1)}.{name}"][5] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="was not equalized") as refusal:
        take(weights, tmp_path / "gptq", tmp_path / "onnx")
    assert refusal.value.where == layer_name(1)


# Recipes. The tiny one gets a variant in its line 14.

VARIANT = "  onnx-int4: {format: onnx, codes: gptq-int4, weights: int4, block_size: 32}\n"


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


def convert_by_command(recipe: Path, limit: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pythia_quant", "convert", recipe, "--only", ONLY, "--out", recipe.parent / "out"]
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, timeout=300, preexec_fn=limit
    )


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
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    succeed(recipe, "gptq-int4")
    done = convert_by_command(recipe, small_files)
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
