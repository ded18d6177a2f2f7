"""A compressed-tensors artifact holds the integers of a GPTQ artifact, and transformers reads the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from gptq_models import PROBE, SHAPE, convert, source
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.compressed_tensors.packing import pack, unpack
from pythia_quant.formats.compressed_tensors.reader import quantization_fields, read
from pythia_quant.formats.compressed_tensors.runtime import open_layers
from pythia_quant.formats.compressed_tensors.writer import write
from pythia_quant.formats.gptq.reader import read as read_gptq
from pythia_quant.formats.gptq.runtime import build_model
from pythia_quant.formats.job import Job
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.model.weights import WeightFiles
from pythia_quant.quantizers.grid import Quantized
from pythia_quant.recipe.compressed_variant import CompressedSettings

GRIDS: list[tuple[int, int | str]] = [(4, 32), (4, 128), (4, "row"), (8, 64)]


def take(weights: WeightFiles, tmp_path: Path, bits: int = 4, size: int | str = 32) -> Path:
    """Write a GPTQ artifact, and a compressed-tensors one with its integers, which is returned."""
    convert(weights, tmp_path / "gptq", bits=bits, group_size=size, sweeps=0, correction="none")
    folder = tmp_path / "ct"
    folder.mkdir()
    settings = CompressedSettings.model_validate(
        {"format": "compressed-tensors", "codes": "gptq", "bits": bits, "group_size": size}
    )
    write(Job(weights, settings, folder, PROBE, codes=read_gptq(tmp_path / "gptq")))
    return folder


@pytest.mark.parametrize(("bits", "size"), GRIDS)
def test_holds_the_integers_and_floats_of_the_gptq_artifact(tmp_path: Path, bits: int, size: int | str) -> None:
    ours, theirs = read(take(source(tmp_path / "source"), tmp_path, bits, size)), read_gptq(tmp_path / "gptq")
    for name in SHAPE.tensor_shapes():
        assert torch.equal(ours.read(name), theirs.read(name)), name
        if theirs.is_quantized(name):
            one, other = ours.quantized(name), theirs.quantized(name)
            for part in ("codes", "scales", "zeros", "groups"):
                assert torch.equal(getattr(one, part), getattr(other, part)), (name, part)


def test_runs_like_the_gptq_artifact(tmp_path: Path) -> None:
    folder = take(source(tmp_path / "source"), tmp_path)
    ids = PROBE[:1]
    ours, gptq = build_model(read(folder)), build_model(read_gptq(tmp_path / "gptq"))
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, gptq(ids).logits)
    assert open_layers(folder, 1).description


@pytest.mark.parametrize(("bits", "size"), GRIDS)
def test_transformers_reads_the_same_model(tmp_path: Path, bits: int, size: int | str) -> None:
    folder = take(source(tmp_path / "source"), tmp_path, bits, size)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    weights = read(folder)
    with torch.no_grad():
        logits, expected = model(PROBE).logits, final_hidden_states(weights, PROBE) @ head_weight(weights).T
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-3 * float(expected.std()))


@given(st.integers(1, 9), st.integers(1, 5), st.sampled_from([4, 8]), st.integers(0, 2**31))
def test_unpacks_as_the_library_does(out: int, groups: int, bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (out, 32 * groups), generator=generator, dtype=torch.uint8)
    quantized = Quantized(
        bits=bits,
        codes=codes,
        scales=torch.rand(out, groups, generator=generator).half(),
        zeros=torch.full((out, groups), 2 ** (bits - 1), dtype=torch.uint8),
        groups=torch.arange(32 * groups, dtype=torch.int32) // 32,
    )
    parts = pack(quantized)
    again = unpack(parts, bits)
    assert torch.equal(again.codes, codes)
    assert torch.equal(again.dequantize(), quantized.dequantize())
    signed = unpack_from_int32(parts["weight_packed"], bits, torch.Size(parts["weight_shape"].tolist()))
    assert torch.equal(signed.int() + 2 ** (bits - 1), codes.int())


@pytest.mark.parametrize(("bits", "size"), [(4, 32), (8, None)])
def test_the_library_understands_what_config_json_says(bits: int, size: int | None) -> None:
    config = QuantizationConfig.model_validate(quantization_fields(bits, size))
    (scheme,) = config.config_groups.values()
    assert isinstance(scheme, QuantizationScheme)
    assert scheme.weights == QuantizationArgs(num_bits=bits, group_size=size, strategy="group" if size else "channel")
    assert scheme.input_activations is scheme.output_activations is None
    assert config.format == "pack-quantized"
    assert config.quantization_status == "compressed"
    assert config.ignore == ["embed_out", "lm_head"]


def test_refuses_a_doctored_artifact(tmp_path: Path) -> None:
    folder = take(source(tmp_path / "source"), tmp_path)
    tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
    shape = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight_shape"
    (folder / "model.safetensors").unlink()
    save_file(tensors | {shape: torch.tensor([7, 7])}, folder / "model.safetensors")
    with pytest.raises(ArtifactError, match="weight_shape is"):
        read(folder).read(shape.replace("_shape", ""))
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["symmetric"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="none that we write"):
        read(folder)
