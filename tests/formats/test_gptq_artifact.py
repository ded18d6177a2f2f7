"""What the GPTQ writer stores, the reader returns, and anyone who knows the layout can unpack."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gptq_models import CALIBRATION, PROBE, SHAPE, convert, source
from heard import Heard
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file
from tiny import random_weights, write_checkpoint

from pythia_quant.core.errors import ArtifactError, PythiaQuantError, QuantizationError
from pythia_quant.formats.gptq.reader import read
from pythia_quant.formats.gptq.writer import write
from pythia_quant.formats.job import Job
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS, layer_name
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.model.weights import WeightFiles, WeightReader
from pythia_quant.quantizers.ridge import RIDGES, ROUNDING
from pythia_quant.recipe.variants import GptqSettings

DENSE = f"{layer_name(1)}.attention.dense"


@pytest.fixture
def weights(tmp_path: Path) -> WeightFiles:
    return source(tmp_path / "source")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert(source(folder / "source"), folder / "artifact", group_size=64)
    return folder / "artifact"


@pytest.fixture
def artifact(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "artifact"))


@torch.no_grad()
def logits(reader: WeightReader) -> torch.Tensor:
    return final_hidden_states(reader, PROBE) @ head_weight(reader).T


EVERY_SETTING = [
    {"group_size": 32},
    {"group_size": 64, "activation_order": "none", "scale_search": False, "sweeps": 0},
    {"group_size": 128, "symmetric": False},
    {"group_size": "row"},
    {"group_size": "row", "activation_order": "dynamic"},
    {"group_size": 32, "activation_order": "dynamic", "symmetric": False},
    {"group_size": 64, "correction": "none", "sweeps": 1},
    {"group_size": 64, "correction": "bias", "sweeps": 1},
    {"group_size": 64, "fisher": True},
    {"bits": 2, "group_size": 32, "symmetric": False},
    {"bits": 3, "group_size": 64},
    {"bits": 3, "group_size": 32, "symmetric": False, "activation_order": "dynamic"},
    {"bits": 8, "group_size": 128},
    {"head": "quantized", "group_size": 64},
    {"head": "quantized", "bits": 3, "symmetric": False, "activation_order": "dynamic"},
]


@pytest.mark.parametrize("settings", EVERY_SETTING, ids=str)
def test_what_is_read_is_what_was_meant_and_what_others_unpack(
    weights: WeightFiles, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = tmp_path / "artifact"
    written = convert(weights, folder, **settings)
    reader = read(folder)
    torch.testing.assert_close(logits(reader), written.logits, rtol=0, atol=1e-5)
    stored = load_numpy(folder / "model.safetensors")
    names = [f"{layer_name(i)}.{linear}" for i in range(SHAPE.layers) for linear in LINEARS]
    for name in [*names, "embed_out"] if settings.get("head") else names:
        expected = unpacked(stored, name, settings.get("bits", 4))
        assert np.array_equal(reader.read(f"{name}.weight").numpy(), expected)
    assert not list(folder.glob(".*"))  # nothing of the work is left


def unpacked(stored: dict[str, Any], name: str, bits: int) -> Any:
    """Dequantize from the format's description only: streams of bits along inputs, zero points less 1 along outputs."""

    def stream(words: Any) -> Any:  # [words, columns] to [numbers, columns]
        flat = np.unpackbits(np.ascontiguousarray(words.T).view(np.uint8), axis=1, bitorder="little")
        return flat.reshape(len(flat), -1, bits).astype(np.int64) @ (1 << np.arange(bits))

    codes, groups = stream(stored[f"{name}.qweight"]), stored[f"{name}.g_idx"]
    zeros = stream(stored[f"{name}.qzeros"].T) + 1  # [groups, out]
    scales = stored[f"{name}.scales"].astype(np.float32)  # [groups, out]
    return (codes - zeros[groups].T) * scales[groups].T


def test_groups_are_neighbours_except_in_dynamic_order(weights: WeightFiles, tmp_path: Path) -> None:
    for order in ("none", "static", "dynamic"):
        convert(weights, tmp_path / order, activation_order=order, group_size=32, sweeps=0)
        groups = load_file(tmp_path / order / "model.safetensors")[f"{DENSE}.g_idx"].tolist()
        assert sorted(groups) == [i // 32 for i in range(128)]
        assert (groups == sorted(groups)) == (order != "dynamic")
        config = json.loads((tmp_path / order / "config.json").read_text())["quantization_config"]
        assert config["desc_act"] == (order == "dynamic")


def test_everything_else_is_fp16_and_computes_what_the_source_does(weights: WeightFiles, artifact: Path) -> None:
    stored = load_file(artifact / "model.safetensors")
    reader = read(artifact)
    for name in SHAPE.tensor_shapes():
        if reader.is_quantized(name):
            assert name not in stored
        else:
            assert stored[name].dtype == torch.float16
    for name in (EMBEDDING, HEAD, f"{FINAL_NORM}.weight", f"{FINAL_NORM}.bias"):
        assert torch.equal(stored[name], weights.read(name).half())
    for index in range(SHAPE.layers):
        first, second = (f"{layer_name(index)}.{norm}" for norm in ("input_layernorm", "post_attention_layernorm"))
        assert torch.equal(stored[f"{first}.weight"], stored[f"{second}.weight"])
        assert not stored[f"{first}.bias"].any()
        assert not stored[f"{layer_name(index)}.mlp.dense_4h_to_h.bias"].any()


def test_corrected_errors_come_nearer_to_the_source(weights: WeightFiles, tmp_path: Path) -> None:
    reference = logits(weights)
    distances = {}
    for correction in ("none", "bias", "full"):
        written = convert(weights, tmp_path / correction, correction=correction, group_size=128, bits=3)
        distances[correction] = float((written.logits - reference).norm() / reference.norm())
    assert distances["full"] < 0.9 * min(distances["none"], distances["bias"])


def test_gptq_is_nearer_to_the_source_than_rounding(weights: WeightFiles, tmp_path: Path) -> None:
    written = convert(weights, tmp_path / "artifact", group_size=128)
    linears: Any = written.notes["linears"]
    assert list(linears) == [
        f"{layer_name(i)}.{linear}"
        for i in range(SHAPE.layers)
        for linear in ("attention.query_key_value", "mlp.dense_h_to_4h", "attention.dense", "mlp.dense_4h_to_h")
    ]
    for facts in linears.values():
        assert 0 < facts["relative_error"] < facts["relative_error_rounding"] < 0.1
        assert facts["damping"] == ROUNDING
        assert facts["ridge"] in RIDGES
    reference = logits(weights)
    assert float((written.logits - reference).norm() / reference.norm()) < 0.2


def test_both_configs_say_what_readers_need(artifact: Path) -> None:
    config = json.loads((artifact / "config.json").read_text())
    for fields in (config["quantization_config"], json.loads((artifact / "quantize_config.json").read_text())):
        expected = {"bits": 4, "group_size": 64, "desc_act": False, "sym": True, "checkpoint_format": "gptq"}
        assert expected.items() <= fields.items()
    assert config["quantization_config"]["quant_method"] == "gptq"


def test_a_config_for_auto_gptq_that_says_something_else_is_refused(weights: WeightFiles, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    convert(weights, folder, sweeps=0, correction="none")
    path = folder / "quantize_config.json"
    written = json.loads(path.read_text())
    read(folder)
    for fields in ({"bits": 8}, {"model_file_base_name": "../other"}, {"trust_remote_code": True}):
        path.write_text(json.dumps(written | fields))
        with pytest.raises(ArtifactError, match=r"quantize_config\.json: does not say what config\.json says"):
            read(folder)
    path.unlink()
    read(folder)


def test_progress_is_reported(weights: WeightFiles, tmp_path: Path) -> None:
    heard = Heard()
    settings = GptqSettings(format="gptq")
    job = Job(weights, settings, tmp_path, PROBE, CALIBRATION, heard)
    write(job)
    assert [step[1:] for step in heard.steps] == [(0, 2), (1, 2)]
    assert heard.steps[0][0] == "layer"
    assert re.fullmatch(r"layer \(the last one's error 0\.\d\d of rounding's\)", heard.steps[1][0])


def test_no_calibration_text_is_refused(weights: WeightFiles, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="given 0 calibration tokens; a layer with 640 inputs"):
        convert(weights, tmp_path / "artifact", calibration=CALIBRATION[:0])


def test_too_little_calibration_text_is_refused(weights: WeightFiles, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="given 576 calibration tokens; a layer with 640 inputs"):
        convert(weights, tmp_path / "artifact", calibration=CALIBRATION[:9])
    assert list((tmp_path / "artifact").iterdir()) == []


def test_a_weight_that_no_scale_reaches_is_refused_by_layer(tmp_path: Path) -> None:
    tensors = {name: tensor.float() for name, tensor in random_weights(SHAPE).items()}
    tensors[f"{layer_name(1)}.mlp.dense_4h_to_h.weight"][5, 5] = 1e7
    with pytest.raises(QuantizationError, match=r"needs the scale .*, which fp16 cannot hold") as refusal:
        convert(source(tmp_path / "source", tensors), tmp_path / "artifact")
    assert refusal.value.where == f"{DENSE} and mlp.dense_4h_to_h"


def test_a_head_that_does_not_fill_words_is_refused(tmp_path: Path) -> None:
    shape = replace(SHAPE, vocabulary=300)
    write_checkpoint(tmp_path, shape, random_weights(shape))
    weights = WeightFiles([tmp_path / "model.safetensors"], shape)
    with pytest.raises(QuantizationError, match="rows of 300 zero points of 4 bits"):
        convert(weights, tmp_path / "artifact", head="quantized")


def test_inputs_that_are_not_finite_are_refused_by_layer(tmp_path: Path) -> None:
    tensors = {name: tensor.float() for name, tensor in random_weights(SHAPE).items()}
    tensors[f"{layer_name(0)}.mlp.dense_4h_to_h.bias"][:] = 65000.0
    tensors[EMBEDDING][:9] = 2000.0  # together more than fp16 holds
    count = int((CALIBRATION < 9).sum())
    with pytest.raises(QuantizationError, match=f"{count} of 2,048 calibration tokens give inputs") as refusal:
        convert(source(tmp_path / "source", tensors), tmp_path / "artifact")
    assert refusal.value.where == f"{layer_name(1)}.attention.query_key_value and mlp.dense_h_to_4h"


def test_a_value_that_fp16_cannot_hold_is_named(tmp_path: Path) -> None:
    tensors = {name: tensor.float() for name, tensor in random_weights(SHAPE).items()}
    tensors[f"{DENSE}.bias"][3] = 70000
    with pytest.raises(QuantizationError, match=r"layers\.1\.attention\.dense\.bias holds 7e\+04"):
        convert(source(tmp_path / "source", tensors), tmp_path / "artifact")


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[f"{DENSE}.scales"]


def _reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{DENSE}.qweight"] = tensors[f"{DENSE}.qweight"][:8].contiguous()


def _retype(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{DENSE}.scales"] = tensors[f"{DENSE}.scales"].bfloat16()


def _spoil(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{DENSE}.scales"][0, 0] = torch.nan


def _misgroup(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{DENSE}.g_idx"][0] = 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop, "attention.dense.scales is missing"),
        (_reshape, r"attention.dense.qweight is I32 \[8, 128\]; I32 \[16, 128\] is expected"),
        (_retype, r"attention.dense.scales is BF16 \[2, 128\]; F16"),
        (_spoil, "attention.dense.scales holds values that are not finite"),
        (_misgroup, "attention.dense.g_idx does not give each of 2 groups as many inputs"),
    ],
)
def test_damage_is_named(artifact: Path, damage: Callable[[dict[str, torch.Tensor]], None], message: str) -> None:
    file = artifact / "model.safetensors"
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file)
    with pytest.raises(ArtifactError, match=message) as refusal:
        logits(read(artifact))
    assert refusal.value.where.startswith(str(artifact))


def test_a_truncated_file_is_named(artifact: Path) -> None:
    file = artifact / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="cannot be read") as refusal:
        read(artifact)
    assert refusal.value.where == str(file)


def test_a_missing_file_is_named(artifact: Path) -> None:
    (artifact / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"model\.safetensors is missing") as refusal:
        read(artifact)
    assert refusal.value.where == str(artifact)


@pytest.mark.parametrize(
    ("key", "value"), [("checkpoint_format", "gptq_v2"), ("bits", 5), ("group_size", 16), ("quant_method", "awq")]
)
def test_another_layout_is_refused(artifact: Path, key: str, value: object) -> None:
    path = artifact / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"][key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=f"quantization_config.{key} is {value!r}"):
        read(artifact)


def test_an_unquantized_folder_is_refused(weights: WeightFiles, tmp_path: Path) -> None:
    with pytest.raises(PythiaQuantError, match=r"quantization_config\.quant_method is None"):
        read(tmp_path / "source")


def test_shards_are_read_through_their_index(artifact: Path) -> None:
    expected = logits(read(artifact))
    tensors = load_file(artifact / "model.safetensors")
    (artifact / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, chosen in files.items():
        save_file({name: tensors[name] for name in chosen}, artifact / file)
    weight_map = {name: file for file, chosen in files.items() for name in chosen}
    index = artifact / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(logits(read(artifact)), expected)
    index.write_text("{}")
    with pytest.raises(ArtifactError, match="not an index"):
        read(artifact)
