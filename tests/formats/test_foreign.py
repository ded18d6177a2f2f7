"""Readers of what others made, against what its makers say it means."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_makers import dequantized, save_bnb, save_gptq, save_half
from safetensors.torch import load_file, save_file
from tiny import TINY, write_checkpoint

from pythia_quant.core.errors import ArtifactError, PythiaQuantError
from pythia_quant.formats.bnb.foreign_reader import ForeignBnb
from pythia_quant.formats.bnb.library import bitsandbytes
from pythia_quant.formats.gptq.foreign_reader import ForeignGptq
from pythia_quant.formats.table import FOREIGN, recognize
from pythia_quant.model.forward import final_hidden_states, head_weight

PROBE = torch.randint(TINY.vocabulary, (2, 20), generator=torch.Generator().manual_seed(0))
LAYER = "gpt_neox.layers.1.mlp.dense_4h_to_h"


def logits_of_weights(kind: str, folder: Path) -> torch.Tensor:
    reader = FOREIGN[kind].open_weights(folder)
    assert reader is not None
    return final_hidden_states(reader, PROBE) @ head_weight(reader).float().T


@pytest.mark.parametrize(
    ("bits", "group_size", "version"), [(4, 48, 1), (4, 32, 2), (2, 16, 2), (3, 32, 1), (3, 48, 2), (8, 64, 1)]
)
def test_gptq_of_another_packer_is_read_and_run(
    checkpoint: Path, tmp_path: Path, bits: int, group_size: int, version: int
) -> None:
    """Groups of 48 do not divide the width: the last one is smaller. 3 bits run on across words."""
    folder = save_gptq(checkpoint, tmp_path / "theirs", bits=bits, group_size=group_size, version=version)
    kind = recognize(folder)
    assert kind is FOREIGN["gptq"]
    reader = ForeignGptq(folder)
    weight = load_file(checkpoint / "model.safetensors")[f"{LAYER}.weight"]
    assert torch.equal(reader.read(f"{LAYER}.weight"), dequantized(weight, bits, group_size))
    finding = kind.inspect(folder, TINY)
    layout = ", layout gptq_v2" if version == 2 else ""
    expected = f"GPTQ, {bits} bits in groups of {group_size}, ordered by activations, with zero points{layout}"
    assert (finding.stored, finding.quantized) == (expected, True)
    expected_logits = logits_of_weights("gptq", folder)
    as_run = kind.open_runtime(folder, 2).logits(PROBE)
    assert (as_run - expected_logits).norm() < 0.02 * expected_logits.norm()


@pytest.mark.parametrize(
    "options",
    [
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_quant_storage": torch.float16},
        {"load_in_8bit": True},
    ],
    ids=["nf4", "fp4 stored as fp16", "int8"],
)
def test_bitsandbytes_as_transformers_saves_it(checkpoint: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    folder = save_bnb(checkpoint, tmp_path / "theirs", **options)
    kind = recognize(folder)
    assert kind is FOREIGN["bnb"]
    assert kind.inspect(folder, TINY).quantized
    if "load_in_4bit" in options:
        state = load_file(folder / "model.safetensors")
        parts = {name: one for name, one in state.items() if name.startswith(f"{LAYER}.weight.")}
        functional = bitsandbytes().functional
        stored = functional.QuantState.from_dict(
            {name.removeprefix(f"{LAYER}.weight."): one for name, one in parts.items()}, device="cpu"
        )
        stored.dtype = torch.float32
        expected = functional.dequantize_4bit(state[f"{LAYER}.weight"], stored)
        assert torch.allclose(ForeignBnb(folder).read(f"{LAYER}.weight"), expected, rtol=1e-6, atol=1e-7)
    expected_logits = logits_of_weights("bnb", folder)
    as_run = kind.open_runtime(folder, 2).logits(PROBE)
    assert (as_run - expected_logits).norm() < 0.05 * expected_logits.norm()


def test_an_unquantized_checkpoint_in_shards(checkpoint: Path, tmp_path: Path) -> None:
    folder = save_half(checkpoint, tmp_path / "theirs")
    kind = recognize(folder)
    assert kind is FOREIGN["unquantized"]
    finding = kind.inspect(folder, TINY)
    assert (finding.stored, finding.quantized, len(finding.files) > 1) == ("unquantized, float16", False, True)
    assert kind.open_runtime(folder, 2).description.endswith("float16, sdpa")


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"max_position_embeddings": 64}, {"rotary_emb_base": 500}])
def test_another_shape_is_refused_by_name(checkpoint: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = save_gptq(checkpoint, tmp_path / "theirs")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters")
    path.write_text(json.dumps(config | change))
    with pytest.raises(ArtifactError, match=rf"{next(iter(change))} is .*, the source's is .*not made from this"):
        FOREIGN["gptq"].inspect(folder, TINY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}, "auto_map names code"),
        ({"quantization_config": [4]}, "quantization_config is no object"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 5}}, "bits of its quantization is 5"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 0}}, "group_size of its"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8, "group_size": 16}}, r"qweight is I32 \[8, 192\]"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}}, "checkpoint_for"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "dynamic": {"x": {}}}}, "dynamic of its"),
        ({"model_type": "llama"}, "only gpt_neox"),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(
    checkpoint: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = save_gptq(checkpoint, tmp_path / "theirs")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PythiaQuantError, match=message):  # noqa: PT012 - either may refuse it
        recognize(folder)
        FOREIGN["gptq"].inspect(folder, TINY)


@pytest.mark.parametrize(
    ("part", "tensor", "message"),
    [
        ("g_idx", torch.full((256,), 99, dtype=torch.int32), "names groups that are not there"),
        ("g_idx", torch.full((256,), -1, dtype=torch.int32), "names groups that are not there"),
        ("scales", torch.full((16, 64), torch.inf, dtype=torch.float16), "not finite"),
        ("qzeros", torch.zeros(1, 8, dtype=torch.int32), "qzeros is I32"),
        ("weight", torch.zeros(64, 256), r"the tensor .*weight'? is none of GPT-NeoX's"),
        ("lora_A", torch.zeros(1), r"the tensor .*lora_A'? is none of GPT-NeoX's"),
    ],
)
def test_doctored_tensors_are_refused(
    checkpoint: Path, tmp_path: Path, part: str, tensor: torch.Tensor, message: str
) -> None:
    folder = save_gptq(checkpoint, tmp_path / "theirs")
    (file,) = folder.glob("*.safetensors")
    save_file(load_file(file) | {f"{LAYER}.{part}": tensor}, file)
    with pytest.raises(ArtifactError, match=message):
        FOREIGN["gptq"].open_runtime(folder, 1)


def test_a_doctored_state_of_bitsandbytes_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = save_bnb(checkpoint, tmp_path / "theirs", load_in_4bit=True, bnb_4bit_quant_type="nf4")
    file = folder / "model.safetensors"
    tensors, name = load_file(file), f"{LAYER}.weight.quant_state.bitsandbytes__nf4"
    state = json.loads(tensors[name].numpy().tobytes())
    for key, value in {"shape": [64, 2560], "blocksize": 3, "dtype": "object", "quant_type": "fp4"}.items():
        content = json.dumps(state | {key: value}).encode()
        save_file(tensors | {name: torch.frombuffer(bytearray(content), dtype=torch.uint8)}, file, {"format": "pt"})
        with pytest.raises(ArtifactError, match=f"says {key} "):
            FOREIGN["bnb"].open_runtime(folder, 1)


def test_what_leads_out_of_the_folder_or_is_cut_short_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = save_gptq(checkpoint, tmp_path / "theirs")
    (file,) = folder.glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match="cannot be read"):
        FOREIGN["gptq"].inspect(folder, TINY)
    outside = write_checkpoint(tmp_path / "outside") / "model.safetensors"
    file.unlink()
    file.symlink_to(outside)
    with pytest.raises(ArtifactError, match="leads out of the folder"):
        FOREIGN["gptq"].inspect(folder, TINY)
