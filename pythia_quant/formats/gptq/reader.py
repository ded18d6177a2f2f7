"""Read a GPTQ artifact back: the integers, or the fp32 weights they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from pythia_quant.architecture import HEAD, LINEARS, Architecture
from pythia_quant.config_file import read_config
from pythia_quant.errors import ArtifactError
from pythia_quant.formats.gptq.packing import PARTS, packed_layout, unpack
from pythia_quant.formats.shards import AGAIN, find_tensors
from pythia_quant.quantizers.grid import Quantized


class GptqWeights:
    """An artifact's tensors, read on demand. Opening checks every name, shape and dtype.

    Args:
        folder: the artifact.
        architecture: of the model.
        bits: of a code.
        group_size: inputs that share a scale; -1 for all of a row.
        head: whether the head is in integers too.
    """

    def __init__(self, folder: Path, architecture: Architecture, bits: int, group_size: int, *, head: bool) -> None:
        self.architecture = architecture
        self._folder, self._bits, self._head = folder, bits, head
        self._file_of = find_tensors(folder)
        for name, shape in architecture.tensor_shapes().items():
            if self.is_quantized(name):
                size = shape[1] if group_size == -1 else group_size
                for part, (packed, dtype) in packed_layout(shape, bits, size).items():
                    self._check(f"{_prefix(name)}.{part}", packed, dtype)
            else:
                self._check(name, shape, torch.float16)

    def read(self, name: str) -> Tensor:
        """Return a checkpoint's tensor by its name there, dequantized, fp32.

        Raises:
            ArtifactError: its stored values are not finite, or its groups out of range.
        """
        return self.quantized(name).dequantize() if self.is_quantized(name) else self._load(name).float()

    def quantized(self, name: str) -> Quantized:
        """Return the integers of a linear layer's weight, by its name in a checkpoint; raises like :meth:`read`."""
        prefix = _prefix(name)
        parts = {part: self._load(f"{prefix}.{part}") for part in PARTS}
        groups = parts["g_idx"]
        if groups.min() < 0 or groups.max() >= len(parts["scales"]):
            raise ArtifactError(f"{prefix}.g_idx names a group that has no scale", where=self._where(f"{prefix}.g_idx"))
        return unpack(parts, self._bits)

    def is_quantized(self, name: str) -> bool:
        """Say whether a checkpoint's tensor is stored as integers."""
        return name.endswith(_QUANTIZED) or (self._head and name == HEAD)

    def _load(self, name: str) -> Tensor:
        with safe_open(self._file_of[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ArtifactError(f"{name} holds values that are not finite", where=self._where(name), hint=AGAIN)
        return tensor

    def _check(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        if name not in self._file_of:
            raise ArtifactError(f"the tensor {name} is missing", where=str(self._folder), hint=AGAIN)
        with safe_open(self._file_of[name], framework="pt") as opened:
            stored = opened.get_slice(name)
            found = (tuple(stored.get_shape()), stored.get_dtype())
        wanted = (shape, _DTYPE_NAMES[dtype])
        if found != wanted:
            raise ArtifactError(
                f"{name} is {found[1]} {list(found[0])}; {wanted[1]} {list(shape)} is expected",
                where=self._where(name),
                hint="weights and config.json do not belong together",
            )

    def _where(self, name: str) -> str:
        return str(self._file_of[name])


_QUANTIZED = tuple(f"{linear}.weight" for linear in LINEARS)
_DTYPE_NAMES = {torch.float16: "F16", torch.int32: "I32"}


def read(folder: Path) -> GptqWeights:
    """Open an artifact's weights.

    Raises:
        ArtifactError: a file is missing or damaged, a tensor is not what ``config.json`` says, or that names a layout
            other than GPTQ version 1.
        SourceError: ``config.json`` is missing or not GPT-NeoX.
    """
    architecture = read_config(folder / "config.json", quantized=True)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config") or {}
    _require(fields, folder, "quant_method", ("gptq",))
    _require(fields, folder, "checkpoint_format", ("gptq",))
    _require(fields, folder, "bits", (2, 3, 4, 8))
    _require(fields, folder, "group_size", (32, 64, 128, -1))
    _require(fields, folder, "lm_head", (False, True))
    return GptqWeights(folder, architecture, fields["bits"], fields["group_size"], head=fields["lm_head"])


def _prefix(name: str) -> str:
    return name.removesuffix(".weight")


def _require(fields: dict[str, Any], folder: Path, key: str, values: tuple[object, ...]) -> None:
    if fields.get(key) not in values:
        allowed = " or ".join(map(repr, values))
        raise ArtifactError(
            f"quantization_config.{key} is {fields.get(key)!r}; only {allowed} is handled",
            where=str(folder / "config.json"),
            hint="open an artifact that pythia-quant wrote",
        )
