"""The check that ends a conversion, and the one that comes before it."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny import TINY, random_weights, write_checkpoint

from pythia_quant.artifacts.check import MAX_RUN_ERROR, MAX_WEIGHT_ERROR, check_artifact
from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.artifacts.needs import WHOLE_MODEL_BYTES, artifact_bytes, check_needs, conversion_needs
from pythia_quant.artifacts.plan import caveats, needs
from pythia_quant.cli.jobs import convert_all
from pythia_quant.core.errors import ArtifactError, CorpusError
from pythia_quant.formats.format import Costs
from pythia_quant.formats.table import format_of
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.records.manifest import CheckRecord

USAGE = namedtuple("USAGE", "total used free")
MEMORY = namedtuple("MEMORY", "total available")


@pytest.fixture
def inputs(recipe_file: Path) -> Inputs:
    return load_inputs(load_recipe(recipe_file))


def test_too_little_disk_is_refused_before_anything_is_written(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = needs(inputs, inputs.recipe.settings.variants["onnx-fp32"])
    check_needs(needed, tmp_path / "new" / "artifact")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(10**9, 10**9, 3_000_000))
    with pytest.raises(ArtifactError, match="needs about 6 MB of disk, 3 MB are free"):
        convert(inputs, "onnx-fp32", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("PYTHIA_QUANT_LOW_MEMORY", "1")
    check_needs(needed, tmp_path / "new" / "artifact")


def test_too_little_memory_is_refused_unless_told_otherwise(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = psutil.Process().memory_info().rss
    needed = Costs(own + 3_000_000_000, 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: MEMORY(total=2 * 10**9, available=2 * 10**9))
    with pytest.raises(ArtifactError, match=r"needs about [\d.]+ [MG]B of memory, [\d.]+ [MG]B are free\n"):
        check_needs(needed, tmp_path / "artifact")
    check_needs(Costs(own + 1_000_000_000, 1), tmp_path / "artifact")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: MEMORY(total=2 * 10**9, available=0))
    with pytest.raises(ArtifactError, match="PYTHIA_QUANT_LOW_MEMORY=1 tries it all the same"):
        check_needs(needed, tmp_path / "artifact")
    monkeypatch.setenv("PYTHIA_QUANT_LOW_MEMORY", "1")
    check_needs(needed, tmp_path / "artifact")


def test_what_gptq_keeps_while_it_works_counts(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = inputs.recipe.settings.variants["gptq-int4"]
    shape = inputs.source.architecture
    memory, disk = format_of(settings).costs(settings, shape, inputs.calibration.size)
    hidden = 16 * 32 * 64 * 2  # of the calibration windows, in half precision
    assert disk == 4 * hidden + 2 * (4 * 64 * 64 + 2 * 64 * 256)
    assert memory > 4 * (64 + 256) ** 2 * 4
    assert needs(inputs, settings).disk > disk + artifact_bytes(shape, settings)
    wide = replace(shape, width=4096, mlp_width=16384)
    assert conversion_needs(wide, settings, 2**18).memory > 4 * 5 * (4 * 4096**2 + 2 * 4096 * 16384)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(10**9, 10**9, 5_000_000 + disk))
    with pytest.raises(ArtifactError, match="MB of disk"):
        check_needs(needs(inputs, settings), tmp_path / "artifact")


def test_little_calibration_text_is_said(inputs: Inputs) -> None:
    """The widest matrix has 64 + 256 inputs: the two matrices whose results are added."""
    settings = inputs.recipe.settings.variants["gptq-int4"]
    assert caveats(inputs, settings)[0].startswith("512 calibration tokens are 1.6 for each of the 320 inputs")
    assert caveats(replace(inputs, calibration=np.zeros((10, 319), np.int64)), settings)
    assert not caveats(replace(inputs, calibration=np.zeros((10, 320), np.int64)), settings)
    assert not caveats(inputs, inputs.recipe.settings.variants["onnx-int8"])


def test_caveats_are_said_and_recorded(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("format: gptq, ", "format: gptq, bits: 8, "))
    console = Console(stderr=True, width=200)
    (artifact,) = convert_all(load_recipe(recipe_file), tmp_path / "out", ["gptq-int4"], False, console)
    said = "no CPU kernel takes 8 bits in groups"
    assert said in capsys.readouterr().err
    assert said in artifact.manifest.notes["caveats"][0]


def test_a_text_of_one_window_is_refused(recipe_file: Path) -> None:
    (recipe_file.parent / "evaluation.txt").write_text("forty bytes of text, which are one window")
    with pytest.raises(CorpusError, match="1 windows of 32 tokens; 2 are the least"):
        load_inputs(load_recipe(recipe_file))


@pytest.mark.fresh_processes
def test_the_manifest_says_what_was_made_and_what_the_check_found(inputs: Inputs, tmp_path: Path) -> None:
    artifact = convert(inputs, "gptq-int4", tmp_path / "out")
    manifest = artifact.manifest
    assert manifest.bytes_on_disk == (artifact.folder / "model.safetensors").stat().st_size
    assert manifest.bits_per_weight == 8 * manifest.bytes_on_disk / inputs.source.architecture.parameters
    assert {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors"} <= manifest.files.keys()
    assert manifest.source.sha256 == inputs.source.sha256
    assert manifest.recipe_id == inputs.recipe.id
    assert manifest.calibration is not None
    assert (manifest.calibration.windows, manifest.calibration.context) == (16, 32)
    assert manifest.check.max_weight_error < MAX_WEIGHT_ERROR
    assert manifest.check.run_error < MAX_RUN_ERROR
    assert len(manifest.check.generated) == 8


def test_weights_that_are_not_the_intended_ones_are_found(inputs: Inputs, tmp_path: Path) -> None:
    artifact = convert(inputs, "bnb-nf4", tmp_path / "out")
    probe = inputs.evaluation[:1, :16]
    path = artifact.folder / "model.safetensors"
    tensors = load_file(path)

    def check() -> None:
        intended = tmp_path / "intended.npy"
        np.save(intended, logits)
        check_artifact(str(artifact.folder), artifact.manifest.settings, probe.tolist(), 1, str(intended))

    from pythia_quant.formats.bnb.reader import read
    from pythia_quant.model.forward import final_hidden_states, head_weight

    reader = read(artifact.folder)
    logits = (final_hidden_states(reader, torch.from_numpy(probe)) @ head_weight(reader).T).numpy()
    check()
    # What a reader does that looks for the head under another name.
    tensors["embed_out.weight"] = torch.randn_like(tensors["embed_out.weight"])
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="weights read back give logits that differ"):
        check()


def test_what_is_too_large_to_load_is_checked_layer_by_layer(inputs: Inputs, tmp_path: Path) -> None:
    artifact = convert(inputs, "onnx-int8", tmp_path / "out")
    probe = inputs.evaluation[:2, :16].tolist()

    def check(whole_model_bytes: int = WHOLE_MODEL_BYTES) -> CheckRecord:
        settings = artifact.manifest.settings
        found = check_artifact(str(artifact.folder), settings, probe, 1, whole_model_bytes=whole_model_bytes)
        return CheckRecord.model_validate(found)

    whole, layers = check(), check(whole_model_bytes=1000)
    assert whole.method.startswith("whole model on")
    assert layers.method.startswith("layer by layer on")
    assert layers.runtime == f"{whole.runtime}, layer by layer"
    assert layers.kl_as_run == pytest.approx(whole.kl_as_run, rel=0.05)
    assert (len(whole.generated), layers.generated) == (8, [])


@pytest.mark.fresh_processes
def test_an_artifact_of_the_same_weights_and_another_config_is_not_reused(inputs: Inputs, tmp_path: Path) -> None:
    convert(inputs, "bnb-nf4", tmp_path)
    convert(inputs, "bnb-nf4", tmp_path)  # stands already
    source = replace(inputs.source, model="/another/folder/tiny")
    sequential = replace(source, architecture=replace(source.architecture, parallel_residual=False))
    with pytest.raises(ArtifactError, match=r"made with a different config\.json"):
        convert(replace(inputs, source=sequential), "bnb-nf4", tmp_path)


def test_an_artifact_of_a_folder_whose_checkpoint_has_changed_is_made_anew(recipe_file: Path, tmp_path: Path) -> None:
    def converted() -> str:
        artifact = convert(load_inputs(load_recipe(recipe_file), only=["onnx-fp32"]), "onnx-fp32", tmp_path / "out")
        return artifact.manifest.source.sha256["model.safetensors"]

    first = converted()
    write_checkpoint(recipe_file.parent / "tiny", weights=random_weights(TINY, seed=1))
    assert converted() != first


def test_a_text_in_another_place_is_the_same_calibration(inputs: Inputs, tmp_path: Path) -> None:
    """A recipe may be called by another path, and its folder may be moved."""
    assert inputs.calibration_record
    made = convert(inputs, "gptq-int4", tmp_path / "out").manifest.created
    record = inputs.calibration_record
    text = record.text.model_copy(update={"name": "elsewhere/calibration.txt"})
    moved = replace(inputs, calibration_record=record.model_copy(update={"text": text}))
    assert convert(moved, "gptq-int4", tmp_path / "out").manifest.created == made
    other = replace(inputs, calibration_record=record.model_copy(update={"seed": 1}))
    with pytest.raises(ArtifactError, match="made with a different calibration"):
        convert(other, "gptq-int4", tmp_path / "out")
