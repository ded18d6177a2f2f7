"""Run compressed-tensors artifacts on the CPU, in the model and the kernel that run GPTQ's."""

from __future__ import annotations

from pathlib import Path

import torch

from pythia_quant.formats.compressed_tensors.reader import read
from pythia_quant.formats.gptq.runtime import DequantizedLinear, GptqLayers, build_model, kernel_description
from pythia_quant.runtimes.transformers import HfRuntime


def open_runtime(folder: Path, threads: int) -> HfRuntime:
    """Load an artifact into torch's int4 kernel.

    Raises:
        ArtifactError: a file or tensor is missing or damaged.
    """
    torch.set_num_threads(threads)
    weights = read(folder)
    model = build_model(weights)
    dequantized = sum(isinstance(module, DequantizedLinear) for module in model.modules())
    return HfRuntime(model, kernel_description(weights, dequantized))


def open_layers(folder: Path, threads: int) -> GptqLayers:
    """Open an artifact to run it layer by layer.

    Raises:
        ArtifactError: a file or tensor is missing or damaged.
    """
    torch.set_num_threads(threads)
    return GptqLayers(read(folder))
