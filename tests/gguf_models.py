"""GGUF files made by code with the package gguf alone, independent of our writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from tiny import byte_tokenizer
from torch import Tensor

from pythia_quant.model.architecture import Architecture

_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
_WHOLE = {
    "gpt_neox.embed_in.weight": "token_embd.weight",
    "gpt_neox.final_layer_norm.weight": "output_norm.weight",
    "gpt_neox.final_layer_norm.bias": "output_norm.bias",
    "embed_out.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    """Return the name in GGUF of a tensor of a checkpoint."""
    if name in _WHOLE:
        return _WHOLE[name]
    _, _, index, part = name.split(".", 3)
    part, kind = part.rsplit(".", 1)
    return f"blk.{index}.{_PARTS[part]}.{kind}"


def write_gguf(
    path: Path,
    architecture: Architecture,
    weights: dict[str, Tensor],
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
) -> Path:
    """Write a model; its matrices in fp32 or fp16, all else in fp32, with the tokenizer of :mod:`tiny`."""
    writer = GGUFWriter(path, "gptneox")
    writer.add_context_length(architecture.context)
    writer.add_embedding_length(architecture.width)
    writer.add_block_count(architecture.layers)
    writer.add_feed_forward_length(architecture.mlp_width)
    writer.add_rope_dimension_count(architecture.rotary_size)
    writer.add_rope_freq_base(architecture.rotary_base)
    writer.add_head_count(architecture.heads)
    writer.add_parallel_residual(architecture.parallel_residual)
    writer.add_layer_norm_eps(architecture.norm_epsilon)
    _add_tokenizer(writer, architecture.vocabulary)
    for name, tensor in weights.items():
        values = tensor.float().numpy()
        if ".query_key_value." in name:
            size, rest = architecture.head_size, values.shape[1:]
            values = values.reshape(architecture.heads, 3, size, *rest).swapaxes(0, 1).reshape(-1, *rest)
        halved = values.ndim == 2 and kind == GGMLQuantizationType.F16
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(values, np.float16 if halved else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter, vocabulary: int) -> None:
    known = {token: name for name, token in byte_tokenizer().get_vocab().items()}
    names = [known.get(token, f"[PAD{token}]") for token in range(vocabulary)]
    kinds = [3 if token == 0 else 1 if token in known else 5 for token in range(vocabulary)]  # control, normal, unused
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges(["<none> <none>"])  # llama.cpp wants one; this never happens
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
