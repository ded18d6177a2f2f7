"""bitsandbytes artifacts against transformers' own way of making them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY, random_weights, write_checkpoint
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from pythia_quant.core.errors import ArtifactError, PythiaQuantError, QuantizationError
from pythia_quant.formats.bnb.library import bitsandbytes
from pythia_quant.formats.bnb.reader import read
from pythia_quant.formats.bnb.runtime import open_bnb
from pythia_quant.formats.bnb.writer import write
from pythia_quant.formats.job import Job
from pythia_quant.model.architecture import NORM_OF
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.model.source import open_source
from pythia_quant.recipe.variants import BnbSettings

PROBE = torch.randint(TINY.vocabulary, (2, 20), generator=torch.Generator().manual_seed(0))


def make(checkpoint: Path, folder: Path, **settings: Any) -> torch.Tensor:
    folder.mkdir()
    source = open_source(str(checkpoint))
    return write(Job(source.weights, BnbSettings(format="bnb", **settings), folder, PROBE)).logits


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_files_hold_what_transformers_saves(
    checkpoint: Path, tmp_path: Path, quant_type: str, double_quant: bool
) -> None:
    fields = {"quant_type": quant_type, "double_quant": double_quant, "compute_dtype": "float32"}
    make(checkpoint, tmp_path / "ours", equalize=False, **fields)
    bitsandbytes()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["embed_out", "lm_head"],
    )
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, quantization_config=config)
    model.save_pretrained(tmp_path / "theirs")  # before the first forward, which repacks
    ours, theirs = (load_file(tmp_path / which / "model.safetensors") for which in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.01), ("bfloat16", 0.02), ("float16", 0.01)])
def test_plain_transformers_gives_the_logits_we_report(
    checkpoint: Path, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    """The tolerance is that of the CPU kernel, which multiplies in bf16 where the processor can."""
    intended = make(checkpoint, tmp_path / "artifact", compute_dtype=dtype)
    reader = read(tmp_path / "artifact")
    from_disk = final_hidden_states(reader, PROBE) @ head_weight(reader).T
    assert torch.equal(from_disk, intended)
    runtime = open_bnb(tmp_path / "artifact", threads=2)
    as_run = runtime.logits(PROBE)
    assert (as_run - intended).norm() < tolerance * intended.norm()
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "artifact")(PROBE).logits.float()
    assert torch.equal(plain, as_run)


def test_inputs_of_other_sizes_cost_nothing(tmp_path: Path) -> None:
    """Gains times 32, and the weights that read them divided by it: four bits must not hurt the same function."""
    weights = {name: tensor.float() for name, tensor in random_weights(TINY).items()}
    for name in ("attention.query_key_value", "mlp.dense_h_to_4h"):
        weights[f"gpt_neox.layers.0.{name}.weight"][:, ::7] /= 32
    for norm in NORM_OF.values():
        for part in ("weight", "bias"):
            weights[f"gpt_neox.layers.0.{norm}.{part}"][::7] *= 32
    source = write_checkpoint(tmp_path / "source", weights=weights)
    wanted = final_hidden_states(open_source(str(source)).weights, PROBE)
    errors = {}
    for equal in (True, False):
        make(source, tmp_path / str(equal), equalize=equal, compute_dtype="float32")
        errors[equal] = float((final_hidden_states(read(tmp_path / str(equal)), PROBE) - wanted).norm())
    assert errors[True] < 0.5 * errors[False]


def test_a_value_that_fp16_cannot_hold_is_refused(tmp_path: Path) -> None:
    weights = {name: tensor.float() for name, tensor in random_weights(TINY).items()}
    weights["gpt_neox.layers.1.attention.dense.bias"][3] = 1e5
    checkpoint = write_checkpoint(tmp_path / "big", weights=weights)
    with pytest.raises(QuantizationError, match=r"layers\.1\.attention\.dense\.bias holds 1e\+05"):
        make(checkpoint, tmp_path / "a", compute_dtype="float16")
    make(checkpoint, tmp_path / "b", compute_dtype="bfloat16")


def test_a_missing_tensor_and_a_damaged_file_are_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    make(checkpoint, folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["gpt_neox.layers.0.mlp.dense_h_to_4h.bias"]
    save_file(tensors, path)
    with pytest.raises(ArtifactError, match=r"layers\.0\.mlp\.dense_h_to_4h\.bias is missing"):
        read(folder).read("gpt_neox.layers.0.mlp.dense_h_to_4h.bias")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="cannot be read"):
        read(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_bitsandbytes_is_kept_from_fetching_code() -> None:
    bitsandbytes()
    assert sys.modules.get("kernels", None) is None
    assert "kernels" not in sys.modules


@pytest.mark.parametrize(
    "doctored",
    [
        {"quantization_config": {"quant_method": "quanto", "weights": "int8"}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "modules": "else"}},
        {"quantization_config": None},
        {"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}},
        {"_attn_implementation": "someone/kernel"},
        {"model_type": "llama"},
    ],
)
def test_a_config_that_asks_for_other_code_is_refused(
    checkpoint: Path, tmp_path: Path, doctored: dict[str, Any]
) -> None:
    make(checkpoint, tmp_path / "artifact", compute_dtype="float32")
    path = tmp_path / "artifact" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | doctored))
    with pytest.raises(PythiaQuantError, match=r"config\.json"):
        open_bnb(tmp_path / "artifact", 1)


def test_values_that_are_not_finite_are_refused_when_loaded_and_when_read(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    make(checkpoint, folder, compute_dtype="float32")
    tensors = load_file(folder / "model.safetensors")
    tensors["gpt_neox.embed_in.weight"][3, 4] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for use in (lambda: open_bnb(folder, 1), lambda: read(folder).read("gpt_neox.embed_in.weight")):
        with pytest.raises(ArtifactError, match=r"embed_in\.weight holds values that are not finite"):
            use()
