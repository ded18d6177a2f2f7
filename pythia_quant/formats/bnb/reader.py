"""Read a bitsandbytes artifact back as the fp32 weights it stands for."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from pythia_quant.architecture import LINEARS, Architecture
from pythia_quant.config_file import read_config
from pythia_quant.errors import ArtifactError
from pythia_quant.formats.bnb.library import bitsandbytes
from pythia_quant.formats.shards import AGAIN, find_tensors


class BnbWeights:
    """The dequantized weights of an artifact folder; one tensor is in memory at a time."""

    def __init__(self, folder: Path, architecture: Architecture, file_of: dict[str, Path]) -> None:
        self.architecture, self._folder, self._file_of = architecture, folder, file_of

    def read(self, name: str) -> Tensor:
        stored = self._tensor(name)
        if not name.removesuffix(".weight").endswith(LINEARS) or not name.endswith(".weight"):
            return stored.float()
        prefix = f"{name}."
        parts = {key.removeprefix(prefix): self._tensor(key) for key in self._file_of if key.startswith(prefix)}
        functional = bitsandbytes().functional
        state = functional.QuantState.from_dict(parts, device=stored.device)
        state.dtype = torch.float32
        weight: Tensor = functional.dequantize_4bit(stored, state)
        return weight

    def _tensor(self, name: str) -> Tensor:
        if name not in self._file_of:
            raise ArtifactError(f"the tensor {name} is missing", where=str(self._folder), hint=AGAIN)
        with safe_open(self._file_of[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor


def read(folder: Path) -> BnbWeights:
    """Open an artifact's weights.

    Raises:
        ArtifactError: a file is missing or damaged.
        SourceError: ``config.json`` is missing or not GPT-NeoX.
    """
    return BnbWeights(folder, read_config(folder / "config.json", quantized=True), find_tensors(folder))
