"""Run a bitsandbytes artifact through transformers."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from transformers import GPTNeoXConfig

from pythia_quant.formats.bnb.foreign import described
from pythia_quant.formats.bnb.foreign_reader import ForeignBnb
from pythia_quant.formats.bnb.library import bitsandbytes, multiplies_in_bf16, quantization_config
from pythia_quant.formats.bnb.reader import read
from pythia_quant.formats.tensor_files import check_all_finite
from pythia_quant.model.architecture import EMBEDDING
from pythia_quant.runtimes.transformers import HfRuntime, dtype_name, load_pretrained


def open_bnb(folder: Path, threads: int, device: str = "cpu") -> HfRuntime:
    """Load a bitsandbytes artifact in the dtype its ``config.json`` names.

    Args:
        folder: the artifact.
        threads: for the whole process, as torch counts them.
        device: ``cpu`` or ``cuda``.

    Raises:
        ArtifactError: it cannot be loaded, is not one of ours, or holds tensors that are not finite.
    """
    torch.set_num_threads(threads)
    bitsandbytes()  # before transformers imports it, which would let it fetch kernels
    stored = read(folder)  # checks all that transformers and bitsandbytes will rely on
    check_all_finite(folder)
    settings, dtype = stored.settings, getattr(torch, stored.settings.compute_dtype)
    kernel = f"bitsandbytes {version('bitsandbytes')} {settings.quant_type}"
    fields = stored.architecture.config() | {"quantization_config": quantization_config(settings)}
    # Not the file's own configuration: an artifact may come from anywhere, and transformers obeys much.
    config = GPTNeoXConfig(**fields | {"dtype": settings.compute_dtype, "torch_dtype": settings.compute_dtype})
    # Without a device_map transformers takes a GPU where there is one.
    model = load_pretrained(folder, dtype, use_safetensors=True, config=config, device_map={"": device})
    return HfRuntime(model, f"{kernel}, {dtype_name(dtype)}{_products(dtype, device)}")


def open_foreign(folder: Path, threads: int, device: str = "cpu") -> HfRuntime:
    """Load a bitsandbytes checkpoint of another maker, with a configuration of ours that says how it is stored.

    Unquantized tensors keep the dtype that the embeddings are stored in.

    Raises:
        ArtifactError: it cannot be loaded, is damaged, or holds tensors that are not finite.
    """
    torch.set_num_threads(threads)
    bitsandbytes()  # before transformers imports it, which would let it fetch kernels
    stored = ForeignBnb(folder)  # checks all that transformers and bitsandbytes will rely on
    for name in stored.tensors.stored:
        stored.tensors.load(name, codes=name in stored.blocks)  # refuses one that is not finite
    dtype = _DTYPES[stored.tensors.stored[EMBEDDING].dtype]
    fields = stored.architecture.config() | {"quantization_config": _foreign_config(stored)}
    config = GPTNeoXConfig(**fields | {"dtype": dtype_name(dtype), "torch_dtype": dtype_name(dtype)})
    model = load_pretrained(folder, dtype, use_safetensors=True, config=config, device_map={"": device})
    products = _products(dtype, device) if stored.blocks else ""
    kernel = described(stored).replace("bitsandbytes", f"bitsandbytes {version('bitsandbytes')}", 1)
    return HfRuntime(model, f"{kernel}, {dtype_name(dtype)}{products}")


_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_COMPUTE = ("float16", "bfloat16", "float32")


def _foreign_config(stored: ForeignBnb) -> dict[str, object]:
    """Return the configuration by which transformers loads a checkpoint as it is stored, with only values we know."""
    asked, compute = stored.fields, str(stored.fields.get("bnb_4bit_compute_dtype", "float32"))
    threshold = asked.get("llm_int8_threshold", 6.0)
    whole = [name for name in stored.architecture.tensor_shapes() if name.endswith(".weight") and "norm" not in name]
    skipped = [name.removesuffix(".weight") for name in whole if not stored.is_quantized(name)]
    config: dict[str, object] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": bool(stored.blocks),
        "load_in_8bit": not stored.blocks,
        "llm_int8_skip_modules": [*skipped, "lm_head"],
        "llm_int8_threshold": float(threshold) if isinstance(threshold, int | float) else 6.0,
    }
    if not stored.blocks:
        return config
    one = next(iter(stored.blocks.values()))
    storage = stored.tensors.stored[next(iter(stored.blocks))].dtype
    return config | {
        "bnb_4bit_quant_type": one.quant_type,
        "bnb_4bit_use_double_quant": one.nested_size is not None,
        "bnb_4bit_compute_dtype": compute if compute in _COMPUTE else "float32",
        "bnb_4bit_quant_storage": {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}.get(storage, "uint8"),
    }


def _products(dtype: torch.dtype, device: str) -> str:
    return ", products in bfloat16" if dtype != torch.bfloat16 and multiplies_in_bf16(device) else ""
