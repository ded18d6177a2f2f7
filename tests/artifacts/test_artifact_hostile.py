"""Artifacts as a hub, a damaged disk or an editor may give them: used, or refused by one of our errors."""

import json
import shutil
from pathlib import Path
from random import Random

import pytest
import torch
from hostile import COUNT, DAMAGES, replace
from rich.console import Console

import pythia_quant
from pythia_quant.artifacts.artifact import open_artifact, verify_files
from pythia_quant.artifacts.check import check_again
from pythia_quant.cli.jobs import bench
from pythia_quant.core.errors import ArtifactError, PythiaQuantError
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.formats.table import format_of

FILES = {
    "bnb-nf4": ["config.json", "model.safetensors"],
    "gptq-int4": ["pythia_quant.json", "config.json", "model.safetensors", "model.safetensors.index.json"],
    "onnx-int8": ["pythia_quant.json", "config.json", "onnx/model_quantized.onnx"],
}
IDS = torch.arange(1, 9)[None]


@pytest.fixture(scope="module")
def artifacts(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return artifacts of all formats; that of GPTQ has an index, as if it had several files."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("hostile") / "made"))
    gptq = folder / "gptq-int4"
    weights = gptq / "model.safetensors"
    header = json.loads(weights.read_bytes()[8 : 8 + int.from_bytes(weights.read_bytes()[:8], "little")])
    names = {name: weights.name for name in header if name != "__metadata__"}
    index = {"metadata": {"total_size": weights.stat().st_size}, "weight_map": names}
    (gptq / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def use(folder: Path) -> None:
    """Open an artifact, read all its weights, and run it."""
    artifact = open_artifact(folder)
    artifact.recipe()
    entry = format_of(artifact.settings)
    reader = entry.open_weights(folder)
    for name in reader.architecture.tensor_shapes():
        reader.read(name)
    logits = entry.open_runtime(folder, 1).logits(IDS)
    assert logits.shape == (1, 8, reader.architecture.vocabulary)


@pytest.mark.parametrize(("variant", "file"), [(variant, file) for variant, files in FILES.items() for file in files])
def test_every_damage_ends_in_one_of_our_errors_or_does_no_harm(artifacts: Path, variant: str, file: str) -> None:
    folder = artifacts / variant
    use(folder)
    path = folder / file
    whole = path.read_bytes()
    refused = 0
    try:
        for seed in range(COUNT):
            replace(path, DAMAGES[path.suffix](whole, Random(f"{variant}/{file}/{seed}")))
            try:
                use(folder)
            except PythiaQuantError:
                refused += 1
            except Exception as error:
                raise AssertionError(f"{type(error).__name__}: damage {seed} of {variant}/{file}") from error
    finally:
        replace(path, whole)
    assert refused > COUNT // 4
    use(folder)


@pytest.mark.parametrize("recipe", [{}, {"variants": []}, None])
def test_a_recipe_that_cannot_be_read_is_refused_where_it_is_needed(
    artifacts: Path, tmp_path: Path, recipe: dict[str, object] | None
) -> None:
    folder = Path(shutil.copytree(artifacts / "onnx-int8", tmp_path / "a"))
    manifest = json.loads((folder / MANIFEST).read_text())
    if recipe is None:  # another one, of another variant
        manifest["recipe"]["variants"]["onnx-int8"]["block_size"] = 32
    else:
        manifest["recipe"] = recipe
    (folder / MANIFEST).write_text(json.dumps(manifest))
    verify_files(open_artifact(folder))
    with pytest.raises(ArtifactError, match="its recipe"):
        bench([folder], Console(quiet=True))


def test_a_tokenizer_of_another_model_is_found_before_anything_is_run(artifacts: Path, tmp_path: Path) -> None:
    """Its hash in the manifest may have been made to match."""
    folder = Path(shutil.copytree(artifacts / "onnx-int8", tmp_path / "a"))
    shutil.copy(Path(pythia_quant.__file__).parent / "model" / "demo" / "tokenizer.json", folder)
    with pytest.raises(ArtifactError, match="has 4,096 tokens, the model's vocabulary is 272"):
        check_again(open_artifact(folder))


def test_damages_are_found_by_their_hashes_too(artifacts: Path) -> None:
    for variant, files in FILES.items():
        folder = artifacts / variant
        for file in files:
            if file in ("pythia_quant.json", "model.safetensors.index.json"):
                continue
            whole = (folder / file).read_bytes()
            replace(folder / file, whole[:-1] + bytes([whole[-1] ^ 1]))
            with pytest.raises(PythiaQuantError, match=r"was changed|not in the manifest"):
                verify_files(open_artifact(folder))
            replace(folder / file, whole)
