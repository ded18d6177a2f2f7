"""What the GPTQ writer stores, the reader returns, and anyone who knows the layout can unpack."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gptq_models import CALIBRATION, PROBE, SHAPE, convert, source
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file
from tiny import random_weights

from pythia_quant.architecture import EMBEDDING, HEAD, LINEARS, layer_name
from pythia_quant.errors import ArtifactError, PythiaQuantError, QuantizationError
from pythia_quant.formats.gptq.reader import is_quantized, read
from pythia_quant.formats.gptq.settings import GptqSettings
from pythia_quant.formats.gptq.writer import PASSES, collect, write
from pythia_quant.formats.job import Job
from pythia_quant.layerwise import Forward, final_hidden_states, head_weight, read_layer
from pythia_quant.weights import WeightFiles, WeightReader

DENSE = f"{layer_name(1)}.attention.dense"


@pytest.fixture
def weights(tmp_path: Path) -> WeightFiles:
    return source(tmp_path / "source")


@pytest.fixture
def artifact(weights: WeightFiles, tmp_path: Path) -> Path:
    convert(weights, tmp_path / "artifact", group_size=64)
    return tmp_path / "artifact"


@torch.no_grad()
def logits(reader: WeightReader) -> torch.Tensor:
    return final_hidden_states(reader, PROBE) @ head_weight(reader).T


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_the_weights_read_back_give_the_logits_written(weights: WeightFiles, tmp_path: Path, group_size: int) -> None:
    written = convert(weights, tmp_path / "artifact", group_size=group_size)
    torch.testing.assert_close(logits(read(tmp_path / "artifact")), written.logits, rtol=0, atol=1e-5)


def test_an_independent_unpacker_gets_the_same_weights(artifact: Path) -> None:
    """Written from the format's description only: 8 codes a word along inputs, zero points less 1 along outputs."""
    stored, reader = load_numpy(artifact / "model.safetensors"), read(artifact)
    for name in (f"{layer_name(i)}.{linear}" for i in range(SHAPE.layers) for linear in LINEARS):
        words, packed_zeros = stored[f"{name}.qweight"], stored[f"{name}.qzeros"]
        scales, groups = stored[f"{name}.scales"].astype(np.float32), stored[f"{name}.g_idx"]
        weight = np.empty((words.shape[1], 8 * words.shape[0]), np.float32)
        for out, i in product(range(0, weight.shape[0], 5), range(weight.shape[1])):  # a fifth is enough, and fast
            code = (int(words[i // 8, out]) >> (4 * (i % 8))) & 15
            zero = ((int(packed_zeros[groups[i], out // 8]) >> (4 * (out % 8))) & 15) + 1
            weight[out, i] = scales[groups[i], out] * (code - zero)
        assert np.array_equal(reader.read(f"{name}.weight").numpy()[::5], weight[::5])


def test_everything_else_is_the_sources_in_fp16(weights: WeightFiles, artifact: Path) -> None:
    stored = load_file(artifact / "model.safetensors")
    for name in SHAPE.tensor_shapes():
        if is_quantized(name):
            assert name not in stored
        else:
            assert torch.equal(stored[name], weights.read(name).half())
    assert HEAD in stored


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
        assert facts["damping"] == 0.01
    reference = logits(weights)
    assert float((written.logits - reference).norm() / reference.norm()) < 0.2


def test_the_size_reported_is_the_size_stored(weights: WeightFiles, tmp_path: Path) -> None:
    written = convert(weights, tmp_path / "artifact")
    stored = load_file(tmp_path / "artifact" / "model.safetensors")
    assert written.tensor_bytes == sum(tensor.numel() * tensor.element_size() for tensor in stored.values())


def test_both_configs_say_what_readers_need(artifact: Path) -> None:
    config = json.loads((artifact / "config.json").read_text())
    for fields in (config["quantization_config"], json.loads((artifact / "quantize_config.json").read_text())):
        expected = {"bits": 4, "group_size": 64, "desc_act": False, "sym": True, "checkpoint_format": "gptq"}
        assert expected.items() <= fields.items()
    assert config["quantization_config"]["quant_method"] == "gptq"


def test_progress_is_reported(weights: WeightFiles, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    settings = GptqSettings(format="gptq")
    job = Job(weights, settings, tmp_path, PROBE, CALIBRATION, lambda *step: seen.append(step))
    write(job)
    assert seen == [("layer", 0, 2), ("layer", 1, 2)]


def test_no_calibration_text_is_refused(weights: WeightFiles, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="given 0 calibration tokens; a layer with 512 inputs"):
        convert(weights, tmp_path / "artifact", calibration=CALIBRATION[:0])


def test_too_little_calibration_text_is_refused(weights: WeightFiles, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="given 448 calibration tokens; a layer with 512 inputs"):
        convert(weights, tmp_path / "artifact", calibration=CALIBRATION[:7])
    assert list((tmp_path / "artifact").iterdir()) == []


def test_a_weight_that_no_scale_reaches_is_refused_by_layer(tmp_path: Path) -> None:
    tensors = {name: tensor.float() for name, tensor in random_weights(SHAPE).items()}
    tensors[f"{DENSE}.weight"][5, 5] = 1e7
    with pytest.raises(QuantizationError, match="scale that fp16 cannot hold") as refusal:
        convert(source(tmp_path / "source", tensors), tmp_path / "artifact")
    assert refusal.value.where == DENSE


def test_inputs_that_are_not_finite_are_refused_by_layer(weights: WeightFiles) -> None:
    calibration = Forward(SHAPE, CALIBRATION)
    calibration.embed(weights.read(EMBEDDING))
    calibration.hidden[3, 4, 5] = torch.inf
    with pytest.raises(QuantizationError, match="inputs of this layer are not finite") as refusal:
        collect(calibration, read_layer(weights, 1), PASSES[0], layer_name(1))
    assert refusal.value.where == f"{layer_name(1)}.{PASSES[0][0]}"


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
        (_misgroup, "attention.dense.g_idx names a group that has no scale"),
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
    with pytest.raises(ArtifactError, match="cannot be read") as refusal:
        read(artifact)
    assert refusal.value.where == str(artifact / "model.safetensors")


@pytest.mark.parametrize(
    ("key", "value"), [("checkpoint_format", "gptq_v2"), ("bits", 3), ("group_size", -1), ("quant_method", "awq")]
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
