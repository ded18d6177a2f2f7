"""Weights beside the source's: rounding passes, what was changed does not, whatever its manifest says."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY, random_weights
from torch import Tensor

from pythia_quant.artifacts.artifact import Artifact, hash_files, open_artifact, verify_files
from pythia_quant.artifacts.verify import Closeness, compare, compare_with, find_local_source, open_named_source
from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.model.architecture import Architecture
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.recipe.variants import GptqSettings
from pythia_quant.records.manifest import Manifest

LAYER = "gpt_neox.layers.1"


def artifact(converted: Path, variant: str) -> Artifact:
    return open_artifact(converted / "out" / "tiny" / "local" / variant)


def compared(found: Artifact) -> Closeness:
    source = find_local_source(found)
    assert source is not None
    return compare_with(found, source)


def doctored(converted: Path, folder: Path, variant: str, change: Callable[[dict[str, Tensor]], None]) -> Artifact:
    """Change an artifact's tensors, and its manifest to match."""
    copy = shutil.copytree(artifact(converted, variant).folder, folder / variant)
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"] = {name: record.model_dump() for name, record in hash_files(copy).items()}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    found = open_artifact(copy)
    verify_files(found)
    return found


@pytest.mark.parametrize(("variant", "matrices"), [("bnb-nf4", 8), ("gptq-int4", 8), ("onnx-int8", 10)])
def test_what_was_converted_is_the_sources(converted: Path, variant: str, matrices: int) -> None:
    found = compared(artifact(converted, variant))
    assert len(found.gains) == len(found.errors) == matrices
    assert all(0.97 < gain < 1.01 for gain in found.gains.values())


@pytest.mark.parametrize(
    ("variant", "tensor", "factor", "said"),
    [
        (
            "gptq-int4",
            f"{LAYER}.attention.dense.scales",
            1.05,
            r"dense.weight is not the source's: it is 1.0\d\d times",
        ),
        ("gptq-int4", f"{LAYER}.mlp.dense_h_to_4h.scales", 0.95, "h_to_4h.weight is not the source's: it is 0.9"),
        ("gptq-int4", f"{LAYER}.mlp.dense_h_to_4h.bias", 3, "h_to_4h.bias is not the source's: it differs by"),
        ("gptq-int4", f"{LAYER}.input_layernorm.weight", 1.02, "input_layernorm.weight is not the source's"),
        ("gptq-int4", "embed_out.weight", 1.02, "embed_out.weight is not the source's: it differs by 0.02 of its size"),
        ("bnb-nf4", "gpt_neox.embed_in.weight", -1, "embed_in.weight is not the source's: it differs by 2 of its size"),
        ("bnb-nf4", f"{LAYER}.attention.query_key_value.bias", 1.05, "query_key_value.bias is not the source's"),
        ("bnb-nf4", "gpt_neox.final_layer_norm.bias", 0, "final_layer_norm.bias is not the source's"),
    ],
)
def test_a_tensor_that_was_scaled(
    converted: Path, tmp_path: Path, variant: str, tensor: str, factor: float, said: str
) -> None:
    def scale(tensors: dict[str, Tensor]) -> None:
        tensors[tensor] *= factor

    with pytest.raises(ArtifactError, match=said):
        compared(doctored(converted, tmp_path, variant, scale))


def test_one_row_that_was_doubled(converted: Path, tmp_path: Path) -> None:
    def double(tensors: dict[str, Tensor]) -> None:
        tensors[f"{LAYER}.mlp.dense_4h_to_h.scales"][:, 5] *= 2  # [groups, outputs]

    with pytest.raises(ArtifactError, match=r"dense_4h_to_h.weight, row 5, is not the source's: it differs by"):
        compared(doctored(converted, tmp_path, "gptq-int4", double))


def test_another_tokenizer(converted: Path, tmp_path: Path) -> None:
    """Words that change places: as many tokens as before."""
    copy = shutil.copytree(artifact(converted, "onnx-int8").folder, tmp_path / "copy")
    path = copy / "tokenizer.json"
    fields = json.loads(path.read_text())
    words = fields["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    path.write_text(json.dumps(fields))
    with pytest.raises(ArtifactError, match=r"tokenizer.json is not the source's"):
        compared(open_artifact(copy))
    path.write_text(json.dumps(fields | {"model": json.loads((converted / "tiny" / path.name).read_text())["model"]}))
    assert compared(open_artifact(copy)).gains


def test_the_source_is_at_hand_where_it_was_and_still_is_it(converted: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(converted, tmp_path / "made")
    found = artifact(copy, "bnb-nf4")
    moved = replace(found, manifest=named(found, str(copy / "tiny"), None))
    assert find_local_source(moved) is not None
    weights = load_file(copy / "tiny" / "model.safetensors")
    weights["embed_out.weight"][0, 0] += 1
    save_file(weights, copy / "tiny" / "model.safetensors", metadata={"format": "pt"})
    assert find_local_source(moved) is None
    with pytest.raises(ArtifactError, match="was made from other weights than those of"):
        open_named_source(moved, str(copy / "tiny"))
    assert find_local_source(replace(found, manifest=named(found, str(tmp_path), None))) is None
    assert find_local_source(replace(found, manifest=named(found, "a\0b", None))) is None


def named(found: Artifact, model: str, commit: str | None) -> Manifest:
    source = found.manifest.source.model_copy(update={"model": model, "commit": commit})
    return found.manifest.model_copy(update={"source": source})


def test_the_source_is_at_hand_in_the_hubs_cache(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "a" * 40
    shutil.copytree(converted / "tiny", tmp_path / "models--me--tiny" / "snapshots" / commit)
    found = artifact(converted, "gptq-int4")
    assert find_local_source(replace(found, manifest=named(found, "me/tiny", commit))) is not None
    assert find_local_source(replace(found, manifest=named(found, "me/tiny", "b" * 40))) is None
    assert find_local_source(replace(found, manifest=named(found, "../me/tiny", commit))) is None


class Weights:
    """Tensors by name."""

    def __init__(self, tensors: dict[str, Tensor], architecture: Architecture = TINY) -> None:
        self.tensors, self.architecture = tensors, architecture

    def read(self, name: str) -> Tensor:
        return self.tensors[name].float()


FP32 = OnnxSettings(format="onnx", weights="fp32", activations="fp32", embeddings="fp32", head="fp32")


def test_gain_and_error_by_hand() -> None:
    source = random_weights(TINY)
    name = f"{LAYER}.attention.dense.weight"
    weight = torch.zeros(64, 64)
    weight[:, 0], weight[:, 1] = 3, 4
    rounded = weight.clone()
    rounded[:, 2] = 0.5
    settings = GptqSettings(format="gptq")
    found = compare(
        Weights(source | {name: rounded}), Weights(source | {name: weight}), settings, equalized=False, corrected=True
    )
    assert found.gains[name] == pytest.approx(1)
    assert found.errors[name] == pytest.approx(0.1)


def test_another_shape_and_other_tokens() -> None:
    source = Weights(random_weights(TINY))
    turned = Weights(source.tensors, replace(TINY, rotary_base=500.0))
    with pytest.raises(ArtifactError, match=r"config.json is not the source's: its rope_parameters is .* there"):
        compare(turned, source, FP32, equalized=False, corrected=False)
    ended = Weights(source.tensors, replace(TINY, tokens=replace(TINY.tokens, ends=(3,))))
    assert not compare(ended, source, FP32, equalized=False, corrected=False).gains


def test_a_matrix_that_is_zero() -> None:
    source = random_weights(TINY)
    source[f"{LAYER}.mlp.dense_h_to_4h.weight"] *= 0
    settings = GptqSettings(format="gptq")
    assert compare(Weights(source), Weights(source), settings, equalized=False, corrected=False).gains
    other = source | {f"{LAYER}.mlp.dense_h_to_4h.weight": torch.ones(256, 64)}
    with pytest.raises(ArtifactError, match="it differs by what is 0 there"):
        compare(Weights(other), Weights(source), settings, equalized=False, corrected=False)
