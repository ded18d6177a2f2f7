"""Run a bitsandbytes artifact through transformers."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from transformers import GPTNeoXConfig

from pythia_quant.formats.bnb.library import bitsandbytes, multiplies_in_bf16, quantization_config
from pythia_quant.formats.bnb.reader import read
from pythia_quant.formats.tensor_files import check_all_finite
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
    products = ", products in bfloat16" if dtype != torch.bfloat16 and multiplies_in_bf16(device) else ""
    return HfRuntime(model, f"{kernel}, {dtype_name(dtype)}{products}")
