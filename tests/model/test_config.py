import json
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY
from transformers import GPTNeoXConfig

from pythia_quant.core.errors import SourceError
from pythia_quant.model.config import parse_config, read_config

BEFORE_TRANSFORMERS_5: dict[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
    "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 256, "layer_norm_eps": 1e-05,
    "max_position_embeddings": 32, "model_type": "gpt_neox", "num_attention_heads": 2, "num_hidden_layers": 2,
    "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "torch_dtype": "float16",
    "transformers_version": "4.24.0", "use_cache": True, "use_parallel_residual": True, "vocab_size": 272,
}  # fmt: skip


def test_old_and_new_configs_read_alike() -> None:
    assert parse_config(BEFORE_TRANSFORMERS_5) == TINY
    assert parse_config(GPTNeoXConfig(**BEFORE_TRANSFORMERS_5).to_dict()) == TINY


def test_the_config_we_write_reads_back_and_transformers_understands_it() -> None:
    assert parse_config(TINY.config()) == TINY
    theirs = GPTNeoXConfig(**TINY.config())
    assert dict(theirs.rope_parameters or {})["partial_rotary_factor"] == 0.25
    assert (theirs.hidden_size, theirs.vocab_size, theirs.eos_token_id) == (64, 272, 0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"architectures": ["GPTNeoXForSequenceClassification"]}, "SequenceClassification"),
        ({"hidden_act": "silu"}, "silu"),
        ({"use_parallel_residual": "yes"}, "use_parallel_residual"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, "rope_scaling"),
        ({"rope_scaling": {"type": "yarn", "beta_fast": 32}}, "'yarn'.*handled: none, linear or dynamic"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "beta_fast": 32}}, "'beta_fast', which is not handled"),
        ({"rope_scaling": {"type": "linear", "factor": "x"}}, "factor"),
        ({"layer_norm_eps": None}, "layer_norm_eps"),
        ({"rotary_pct": float("inf")}, "rotary_pct"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"eos_token_id": 272}, "eos_token_id"),
        ({"bos_token_id": [0]}, "bos_token_id is .*a single token"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters"),
        ({"rotary_pct": 0.5, "rope_parameters": {"partial_rotary_factor": 0.25}}, "rotary_pct"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"sliding_window": 128}, "sliding_window"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"vocab_size": None}, "vocab_size"),
    ],
)
def test_what_is_not_handled_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SourceError, match=named):
        parse_config(BEFORE_TRANSFORMERS_5 | change)


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_a_damaged_file_is_refused_with_its_path(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(SourceError, match=r"config\.json"):
        read_config(path)
    path.write_text(json.dumps(BEFORE_TRANSFORMERS_5))
    assert read_config(path) == TINY
