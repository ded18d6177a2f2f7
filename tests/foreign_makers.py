"""What others make of a checkpoint, by their programs or by a small packer that shares no code with ours."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from pythia_quant.formats.bnb.library import bitsandbytes

LINEARS = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


def save_bnb(source: Path, folder: Path, **options: Any) -> Path:
    """Quantize with transformers, and save as its users do."""
    bitsandbytes()
    config = BitsAndBytesConfig(**options)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16, quantization_config=config)
    model.save_pretrained(folder)
    return folder


def save_half(source: Path, folder: Path) -> Path:
    """Save in fp16, in shards, with the tokenizer beside it."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16)
    model.save_pretrained(folder, max_shard_size="200KB")
    shutil.copy(source / "tokenizer.json", folder)
    return folder


def save_gptq(source: Path, folder: Path, *, bits: int = 4, group_size: int = 16, version: int = 1) -> Path:
    """Round to nearest in groups of inputs in a random order, packed as auto-gptq packs them."""
    folder.mkdir()
    stored = {name: tensor.float() for name, tensor in load_file(source / "model.safetensors").items()}
    tensors = {"gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9), **stored}
    for name in [one for one in stored if one.endswith(tuple(f"{linear}.weight" for linear in LINEARS))]:
        prefix = name.removesuffix(".weight")
        parts, tensors[name] = _pack(stored[name], bits, group_size, version)
        tensors |= {f"{prefix}.{part}": tensor for part, tensor in parts.items()}
        del tensors[name]
    tensors = {name: one.half() if one.is_floating_point() else one for name, one in tensors.items()}
    save_file(tensors, folder / f"gptq_model-{bits}bit-{group_size}g.safetensors")
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"unknown_to_us": 1}))
    quantize: dict[str, object] = {"bits": bits, "group_size": group_size, "desc_act": True, "sym": False}
    quantize |= {"checkpoint_format": "gptq_v2"} if version == 2 else {}
    (folder / "quantize_config.json").write_text(json.dumps(quantize))
    return folder


def dequantized(weight: Tensor, bits: int, group_size: int) -> Tensor:
    """Return what :func:`save_gptq` means by a weight, fp32 [out, in]."""
    return _pack(weight.float(), bits, group_size, 1)[1]


def _pack(weight: Tensor, bits: int, group_size: int, version: int) -> tuple[dict[str, Tensor], Tensor]:
    rows, columns = weight.shape
    order = np.random.default_rng(columns).permutation(columns)
    groups = np.empty(columns, np.int64)
    groups[order] = np.arange(columns) // group_size
    count, top = groups.max() + 1, 2**bits - 1
    values = weight.numpy()
    scales, zeros = np.empty((count, rows), np.float16), np.empty((count, rows), np.int64)
    codes, meant = np.empty((columns, rows), np.int64), np.empty_like(values)
    for group in range(count):
        inside = values[:, groups == group]
        low, high = np.minimum(inside.min(1), -1e-4), np.maximum(inside.max(1), 1e-4)
        scales[group] = (high - low) / top
        scale = scales[group].astype(np.float32)
        zeros[group] = np.clip(np.round(-low / scale), 1, top)
        rounded = np.clip(np.round(inside / scale[:, None]) + zeros[group][:, None], 0, top)
        codes[groups == group] = rounded.T
        meant[:, groups == group] = (rounded - zeros[group][:, None]) * scale[:, None]
    parts = {
        "qweight": _words(codes, bits),
        "qzeros": _words((zeros - (version == 1)).T, bits).T.contiguous(),
        "scales": torch.from_numpy(scales),
        "g_idx": torch.from_numpy(groups).int(),
    }
    return parts, torch.from_numpy(meant)


def _words(numbers: np.ndarray[Any, Any], bits: int) -> Tensor:
    """Put numbers, [n, columns], into int32 words: the bits of a column one by one, the lowest first."""
    stream = (numbers.T[:, :, None] >> np.arange(bits)) & 1
    octets = np.packbits(stream.astype(np.uint8).reshape(numbers.shape[1], -1), axis=1, bitorder="little")
    return torch.from_numpy(np.ascontiguousarray(octets.view("<i4").T.astype(np.int32)))


def save_compressed(source: Path, folder: Path, *options: dict[str, Any], head: bool = False) -> Path:
    """Round to nearest on the grid of compressed-tensors, and pack with its own compressor.

    Args:
        source: a checkpoint.
        folder: will be made.
        options: of the weights; a second one is for the layers of the MLP.
        head: whether the head is quantized, too.
    """
    folder.mkdir()
    schemes = [QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**one)) for one in options]
    ends = (*(f"{linear}.weight" for linear in LINEARS), *(["embed_out.weight"] if head else []))
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if not name.endswith(ends):
            tensors[name] = tensor
            continue
        scheme = schemes[-1 if "mlp" in name else 0]
        args, weight = scheme.weights, tensor.float()
        assert args is not None
        size = args.group_size if args.strategy == "group" else weight.shape[1]
        groups = weight.unflatten(1, (-1, size))
        scale, zero = calculate_qparams(groups.amin(2), groups.amax(2), args)
        state = {"weight": weight, "weight_scale": scale.half().float(), "weight_zero_point": zero.to(torch.int8)}
        packed = PackedQuantizationCompressor.compress(state, scheme)
        packed["weight_scale"] = packed["weight_scale"].half()
        tensors |= {f"{name.removesuffix('.weight')}.{part}": one for part, one in packed.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    groups_of_layers = {f"group_{index}": scheme for index, scheme in enumerate(schemes)}
    if len(schemes) > 1:
        groups_of_layers["group_0"].targets = ["re:.*attention.*"]
        groups_of_layers["group_1"].targets = ["re:.*mlp.*"]
    quantization = QuantizationConfig(
        config_groups=groups_of_layers, format="pack-quantized", ignore=[] if head else ["embed_out", "lm_head"],
        quantization_status="compressed",
    )  # fmt: skip
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = json.loads(quantization.model_dump_json())
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class _Neox(torch.nn.Module):
    """A GPT-NeoX of two heads in plain torch, which takes ids and gives logits, without a cache."""

    def __init__(self, weights: dict[str, Tensor], layers: int, heads: int, rotary: int) -> None:
        super().__init__()
        self.names = {name: name.replace(".", "_") for name in weights}
        for name, tensor in weights.items():
            self.register_buffer(self.names[name], tensor.float())
        self.layers, self.heads, self.rotary = layers, heads, rotary

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = F.embedding(input_ids, self._get("gpt_neox.embed_in.weight"))
        for layer in range(self.layers):
            prefix = f"gpt_neox.layers.{layer}."
            normed = self._norm(f"{prefix}post_attention_layernorm", hidden)
            inner = F.gelu(self._linear(f"{prefix}mlp.dense_h_to_4h", normed))
            attended = self._attention(f"{prefix}attention.", self._norm(f"{prefix}input_layernorm", hidden))
            hidden = hidden + attended + self._linear(f"{prefix}mlp.dense_4h_to_h", inner)
        return F.linear(self._norm("gpt_neox.final_layer_norm", hidden), self._get("embed_out.weight"))

    def _get(self, name: str) -> Tensor:
        tensor: Tensor = getattr(self, self.names[name])
        return tensor

    def _linear(self, name: str, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self._get(f"{name}.weight"), self._get(f"{name}.bias"))

    def _norm(self, name: str, hidden: Tensor) -> Tensor:
        weight = self._get(f"{name}.weight")
        return F.layer_norm(hidden, weight.shape, weight, self._get(f"{name}.bias"), 1e-5)

    def _attention(self, prefix: str, inputs: Tensor) -> Tensor:
        batch, tokens, width = inputs.shape
        mixed = self._linear(f"{prefix}query_key_value", inputs).view(batch, tokens, self.heads, -1).transpose(1, 2)
        query, key, value = mixed.chunk(3, dim=-1)
        positions = torch.cumsum(torch.ones_like(inputs[0, :, 0]), 0) - 1
        query, key = self._rotate(query, positions), self._rotate(key, positions)
        scores = query @ key.transpose(2, 3) / (width // self.heads) ** 0.5
        scores = scores.masked_fill(positions[None, :] > positions[:, None], -1e9)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, tokens, width)
        return self._linear(f"{prefix}dense", mixed)

    def _rotate(self, states: Tensor, positions: Tensor) -> Tensor:
        half = self.rotary // 2
        angles = positions[:, None] * 10000.0 ** (-torch.arange(half) / half)
        cosines, sines = angles.cos(), angles.sin()
        first, second, rest = states[..., :half], states[..., half : self.rotary], states[..., self.rotary :]
        return torch.cat([first * cosines - second * sines, second * cosines + first * sines, rest], -1)


def export_onnx(source: Path, folder: Path) -> Path:
    """Export with torch, without past keys and values; the configuration lies above the graph."""
    (folder / "onnx").mkdir(parents=True)
    shutil.copy(source / "config.json", folder)
    model = _Neox(load_file(source / "model.safetensors"), layers=2, heads=2, rotary=8).eval()
    file = folder / "onnx" / "model.onnx"
    axes = {name: {0: "batch", 1: "tokens"} for name in ("input_ids", "logits")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the newer exporter needs onnxscript
        torch.onnx.export(
            model, (torch.randint(200, (1, 9)),), file, input_names=["input_ids"], output_names=["logits"],
            dynamic_axes=axes, dynamo=False, opset_version=17,
        )  # fmt: skip
    return file
