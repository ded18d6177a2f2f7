"""Manifest and config.json of an artifact as anybody may have written them: read, or refused in one message."""

import json
from pathlib import Path
from typing import Any

import pytest
from card_inputs import manifest
from mutations import COUNT, json_mutations, refused_or_read
from tiny import TINY

from pythia_quant.artifacts.artifact import open_artifact, verify_files
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.formats.bnb.library import quantization_config, settings_of
from pythia_quant.formats.gptq.reader import read
from pythia_quant.formats.tensor_files import read_artifact_config
from pythia_quant.publishing.anonymize import public_manifest, public_recipe, serialized
from pythia_quant.recipe.variants import BnbSettings

GPTQ = {
    "bits": 4, "group_size": 32, "sym": True, "desc_act": False, "lm_head": False, "quant_method": "gptq",
    "checkpoint_format": "gptq", "modules_in_block_to_quantize": [["attention.dense"]],
}  # fmt: skip


def test_damaged_manifests_are_read_or_refused(tmp_path: Path) -> None:
    """And what is read can be verified and published; fewer, since PyYAML takes milliseconds for a recipe."""

    def use(_: Path) -> None:
        open_artifact(tmp_path).recipe()

    def publish(_: Path) -> None:
        artifact = open_artifact(tmp_path)
        artifact.recipe()
        public = public_manifest(artifact.manifest)
        public_recipe(public)
        serialized(public)
        verify_files(artifact)

    whole: dict[str, Any] = json.loads(serialized(manifest("onnx-int8")))
    recipe = whole["recipe"]
    chosen = {"variants": {"onnx-int8": recipe["variants"]["onnx-int8"]}}
    kept = {key: value for key, value in recipe.items() if key not in ("basis", "gates", "calibration")}
    whole["recipe"] = kept | chosen  # of few parts, so that most mutations meet something else
    path = tmp_path / MANIFEST
    path.write_text(json.dumps(whole))
    use(path)
    counts = refused_or_read(use, path, json_mutations(whole))
    assert min(counts["read"], counts["refused"]) > COUNT // 20
    assert refused_or_read(publish, path, json_mutations(whole, COUNT // 20, seed=1))["refused"] > COUNT // 40


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [
        (GPTQ, "float16"),
        (quantization_config(BnbSettings(format="bnb", compute_dtype="float32")), "float32"),
    ],
)
def test_damaged_configs_of_artifacts_are_read_or_refused(
    tmp_path: Path, quantization: dict[str, Any], dtype: str
) -> None:
    def use(_: Path) -> None:
        config = read_artifact_config(tmp_path)
        if dtype == "float16":
            read(tmp_path)  # which looks for the weights last
        else:
            settings_of(config, tmp_path)

    config = TINY.config() | {"dtype": dtype, "quantization_config": quantization}
    counts = refused_or_read(use, tmp_path / "config.json", json_mutations(config, COUNT // 2))
    assert counts["refused"] > COUNT // 10
