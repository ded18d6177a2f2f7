"""The transformers runtime is transformers: same logits, and generating gives what measuring gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gptq_models import SHAPE, source, tokens
from safetensors.torch import load_file, save_file
from tiny import random_weights
from transformers import AutoModelForCausalLM

from pythia_quant.core.errors import BenchmarkError, SourceError
from pythia_quant.model.architecture import HEAD
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.model.weights import WeightFiles
from pythia_quant.runtimes.protocol import generate
from pythia_quant.runtimes.transformers import open_model

IDS = tokens(2, 40)


@pytest.fixture
def weights(tmp_path: Path) -> WeightFiles:
    return source(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_are_those_of_transformers(weights: WeightFiles, tmp_path: Path, dtype: torch.dtype) -> None:
    runtime = open_model(tmp_path, dtype)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    with torch.no_grad():
        expected = model(IDS).logits.float()
    assert torch.equal(runtime.logits(IDS), expected)
    assert runtime.logits(IDS).dtype == torch.float32
    assert f", {str(dtype).removeprefix('torch.')}, sdpa" in runtime.description


def test_fp32_logits_are_those_of_the_layerwise_forward(weights: WeightFiles, tmp_path: Path) -> None:
    expected = final_hidden_states(weights, IDS) @ head_weight(weights).T
    torch.testing.assert_close(open_model(tmp_path, torch.float32).logits(IDS), expected, rtol=0, atol=1e-4)


def test_fields_that_do_not_matter_are_not_transformers_to_read(weights: WeightFiles, tmp_path: Path) -> None:
    expected = open_model(tmp_path, torch.float32).logits(IDS)
    config = json.loads((tmp_path / "config.json").read_text())
    strange = {"return_dict": False, "use_cache": None, "classifier_dropout": None, "_attn_implementation": "flash_x"}
    (tmp_path / "config.json").write_text(json.dumps(config | strange))
    assert torch.equal(open_model(tmp_path, torch.float32).logits(IDS), expected)


@pytest.mark.parametrize("prompt", [1, 7, 30])
def test_prefill_and_steps_give_the_logits_of_the_whole_sequence(
    weights: WeightFiles, tmp_path: Path, prompt: int
) -> None:
    runtime = open_model(tmp_path, torch.float32)
    ids = IDS[0]
    expected = runtime.logits(ids[None])[0]
    runtime.prefill(ids[:5], capacity=5)  # forgotten by the next
    steps = [runtime.prefill(ids[:prompt], capacity=prompt + 10)]
    steps += [runtime.step(int(token)) for token in ids[prompt : prompt + 10]]
    torch.testing.assert_close(torch.stack(steps), expected[prompt - 1 : prompt + 10], rtol=0, atol=1e-4)


def test_greedy_text_is_that_of_transformers(weights: WeightFiles, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    expected = model.generate(IDS[:1, :8], max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=0)
    ours = generate(open_model(tmp_path, torch.float32), IDS[0, :8], 12, ends=())
    assert ours == expected[0, 8:].tolist()


def test_more_tokens_than_positions_are_refused(weights: WeightFiles, tmp_path: Path) -> None:
    runtime = open_model(tmp_path, torch.float32)
    with pytest.raises(BenchmarkError, match="65 in all do not fit the model's 64 positions"):
        runtime.prefill(IDS[0], capacity=65)
    with pytest.raises(BenchmarkError, match="a prompt of 40 tokens and 39 in all"):
        runtime.prefill(IDS[0], capacity=39)


def test_a_pickle_is_loaded_when_there_is_nothing_else(weights: WeightFiles, tmp_path: Path) -> None:
    expected = open_model(tmp_path, torch.float32).logits(IDS)
    (tmp_path / "model.safetensors").unlink()
    torch.save(random_weights(SHAPE), tmp_path / "pytorch_model.bin")
    assert torch.equal(open_model(tmp_path, torch.float32).logits(IDS), expected)


def test_what_a_merged_adapter_left_is_not_applied_again(weights: WeightFiles, tmp_path: Path) -> None:
    expected = open_model(tmp_path, torch.float32).logits(IDS)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere", "peft_type": "LORA"}')
    assert torch.equal(open_model(tmp_path, torch.float32).logits(IDS), expected)


def test_a_missing_tensor_is_refused_not_made_up(weights: WeightFiles, tmp_path: Path) -> None:
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[HEAD]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"the tensor embed_out\.weight is missing"):
        open_model(tmp_path, torch.float32)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has neither model\.safetensors nor"):
        open_model(tmp_path, torch.float32)


def test_no_text_is_made_of_logits_that_are_not_finite(tmp_path: Path) -> None:
    tensors = random_weights(SHAPE)
    tensors["gpt_neox.layers.0.mlp.dense_4h_to_h.weight"].fill_(60000)
    source(tmp_path, tensors)
    runtime = open_model(tmp_path, torch.float16)
    with pytest.raises(BenchmarkError, match="after 3 tokens, logits are not finite"):
        generate(runtime, torch.tensor([1, 2, 3]), count=4, ends=())


def test_a_step_beyond_the_capacity_is_refused(weights: WeightFiles, tmp_path: Path) -> None:
    runtime = open_model(tmp_path, torch.float32)
    runtime.prefill(torch.tensor([1, 2]), capacity=2)
    with pytest.raises(BenchmarkError, match="token 3 does not fit: a capacity of 2"):
        runtime.step(1)
