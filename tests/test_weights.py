import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY, random_weights, write_checkpoint

from pythia_quant.errors import SourceError
from pythia_quant.weights import WeightFiles, weight_file_names


def write(folder: Path, **changed: torch.Tensor | None) -> Path:
    weights = random_weights(TINY) | {name.replace("__", "."): t for name, t in changed.items() if t is not None}
    for name, tensor in changed.items():
        if tensor is None:
            del weights[name.replace("__", ".")]
    path = folder / "model.safetensors"
    save_file(weights, path)
    return path


def test_safetensors_and_pickles_give_the_same_tensors_and_buffers_are_ignored(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    buffers = {
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 32, 32, dtype=torch.bool),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(4),
    }
    torch.save(weights | buffers, tmp_path / "pytorch_model.bin")
    pickled = WeightFiles([tmp_path / "pytorch_model.bin"], TINY)
    safe = WeightFiles([write(tmp_path)], TINY)
    for name, tensor in weights.items():
        assert torch.equal(pickled.read(name), tensor)
        assert torch.equal(safe.read(name), tensor)


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    weights = list(random_weights(TINY).items())
    parts = {"a.safetensors": dict(weights[:5]), "b.safetensors": dict(weights[5:])}
    for file, part in parts.items():
        save_file(part, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}}))
    assert weight_file_names(index) == ["a.safetensors", "b.safetensors"]
    reader = WeightFiles([tmp_path / name for name in parts], TINY)
    assert torch.equal(reader.read(weights[7][0]), weights[7][1])


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"weight_map": {"x": "../x"}}', '{"weight_map": {"x": "/etc/passwd"}}', "{}"]
)
def test_an_index_that_is_damaged_or_points_elsewhere_is_refused(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(SourceError, match="index"):
        weight_file_names(index)


def test_a_missing_a_misshapen_and_an_unknown_tensor_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"embed_out\.weight is missing"):
        WeightFiles([write(tmp_path, embed_out__weight=None)], TINY)
    with pytest.raises(SourceError, match=r"\[3, 3\].*\[272, 64\]"):
        WeightFiles([write(tmp_path, embed_out__weight=torch.ones(3, 3))], TINY)
    with pytest.raises(SourceError, match="surprise"):
        WeightFiles([write(tmp_path, surprise=torch.ones(1))], TINY)
    with pytest.raises(SourceError, match=r"(?s)lm_head.*rename"):
        WeightFiles([write(tmp_path, lm_head__weight=torch.ones(272, 64))], TINY)


def test_weights_of_another_dtype_are_refused_and_bytes_counted(tmp_path: Path) -> None:
    assert WeightFiles([write(tmp_path)], TINY).tensor_bytes == 2 * TINY.parameters
    with pytest.raises(SourceError, match=r"final_layer_norm\.bias is I8"):
        WeightFiles([write(tmp_path, gpt_neox__final_layer_norm__bias=torch.ones(64, dtype=torch.int8))], TINY)


def test_values_that_are_not_finite_are_refused_when_read(tmp_path: Path) -> None:
    head = random_weights(TINY)["embed_out.weight"]
    head[3, 5], head[4, 6] = torch.nan, torch.inf
    reader = WeightFiles([write(tmp_path, embed_out__weight=head)], TINY)
    reader.read("gpt_neox.embed_in.weight")
    with pytest.raises(SourceError, match=r"2 of 17,408 values of embed_out\.weight are not finite"):
        reader.read("embed_out.weight")


@pytest.mark.parametrize("kept", [0, 4, 100, 50_000])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, kept: int) -> None:
    path = tmp_path / name
    if name.endswith("bin"):
        torch.save(random_weights(TINY), path)
    else:
        write(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SourceError, match=name):
        WeightFiles([path], TINY)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "pytorch_model.bin"
    torch.save({"embed_out.weight": Payload()}, path)
    with pytest.raises(SourceError, match=r"pytorch_model\.bin"):
        WeightFiles([path], TINY)
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(SourceError, match=r"pytorch_model\.bin"):
        WeightFiles([path], TINY)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_written_by_the_tests_is_complete(tmp_path: Path) -> None:
    WeightFiles([write_checkpoint(tmp_path) / "model.safetensors"], TINY)
