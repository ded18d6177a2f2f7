from pathlib import Path

import pytest
import torch
from tiny import TINY, random_weights, write_checkpoint
from transformers import GPTNeoXForCausalLM

from pythia_quant.model.architecture import Architecture
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.model.weights import WeightFiles

WIDE_HEADS = Architecture(1, 80, 1, 320, 272, 32, 20, 10000.0, 1e-5)


@pytest.mark.parametrize("architecture", [TINY, WIDE_HEADS], ids=["two layers", "head size 80"])
def test_logits_equal_those_of_transformers_in_fp32(tmp_path: Path, architecture: Architecture) -> None:
    folder = write_checkpoint(tmp_path, architecture, random_weights(architecture))
    reader = WeightFiles([folder / "model.safetensors"], architecture)
    ids = torch.randint(architecture.vocabulary, (3, architecture.context), generator=torch.Generator().manual_seed(0))
    ours = final_hidden_states(reader, ids) @ head_weight(reader).T
    model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        theirs = model(ids).logits
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
