"""Private names of libraries still are there, and do what we rely on."""

import logging

import huggingface_hub.utils._http
import pytest
import torch
from torch import Tensor, nn
from transformers import GPTNeoXConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer, GPTNeoXRotaryEmbedding

from pythia_quant.core import compat, hub_client
from pythia_quant.core.machine import processor


def test_torch_says_whether_there_are_matrix_units() -> None:
    assert compat.has_amx_tiles() == ("amx_int8" in processor()[1] or "amx_bf16" in processor()[1])


def test_torch_says_whether_bf16_is_fast() -> None:
    assert isinstance(compat.has_bf16_products(), bool)
    if "avx512_bf16" in processor()[1]:
        assert compat.has_bf16_products()


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_the_int4_product_is_that_of_the_dequantized_weight(group_size: int) -> None:
    torch.manual_seed(0)
    codes = torch.randint(0, 16, (32, 256), dtype=torch.int32)
    scale, offset = torch.rand(256 // group_size, 32) / 50, torch.randn(256 // group_size, 32) / 50
    scales = torch.stack([scale, offset], dim=-1).bfloat16()
    rows = torch.randn(5, 256).bfloat16()
    product = compat.int4_product(rows, compat.pack_int4(codes), group_size, scales)
    assert product.dtype == torch.bfloat16
    wide: Tensor = scales.float().repeat_interleave(group_size, dim=0)
    weight = (codes.T - 8) * wide[..., 0] + wide[..., 1]
    expected = rows.float() @ weight
    assert (product.float() - expected).norm() < 0.004 * expected.norm()


def test_a_layer_without_a_model_takes_the_attention_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPTNeoXConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1, intermediate_size=64)
    compat.use_sdpa(config)
    layer, rotary, calls = GPTNeoXLayer(config, 0).eval(), GPTNeoXRotaryEmbedding(config), []
    fused = nn.functional.scaled_dot_product_attention

    def count(*arguments: Tensor, **options: object) -> Tensor:
        calls.append(1)
        return fused(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", count)
    hidden = torch.randn(1, 4, 32)
    layer(hidden, position_embeddings=rotary(hidden, torch.arange(4)[None]))
    assert calls


def test_huggingface_hub_tells_of_repetitions_in_these_loggers() -> None:
    names = {module.logger.name for module in (huggingface_hub.file_download, huggingface_hub.utils._http)}
    assert names == {"huggingface_hub.file_download", "huggingface_hub.utils._http"}
    hub_client.prepare()
    assert all(logging.getLogger(name).level == logging.CRITICAL for name in names)
