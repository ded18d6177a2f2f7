"""Read a GPTQ artifact: its integers, or the fp32 weights that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.foreign_files import own_file, read_object
from pythia_quant.formats.gptq.packing import PARTS, packed_layout, unpack
from pythia_quant.formats.tensor_files import (
    AGAIN,
    NAME,
    check_tensors,
    list_tensors,
    read_artifact_config,
    read_tensor,
)
from pythia_quant.model.architecture import HEAD, LINEARS, Architecture
from pythia_quant.quantizers.grid import Quantized

QUANTIZE_CONFIG = "quantize_config.json"
"""The name of the file that auto-gptq reads in place of config.json."""


class GptqWeights:
    """An artifact's tensors, which are read one at a time. Opening checks every name, shape and dtype.

    Args:
        folder: the artifact.
        architecture: the shape of the model.
        bits: the bits of a code.
        group_size: the number of inputs that share a scale; -1 for all inputs of a row.
        head: whether the head is quantized, too.

    Raises:
        ArtifactError: a tensor is missing, or has another shape or dtype than its place in the model requires.
    """

    def __init__(self, folder: Path, architecture: Architecture, bits: int, group_size: int, *, head: bool) -> None:
        self.architecture = architecture
        self._folder, self._bits, self._head = folder, bits, head
        self._entries = list_tensors(folder)
        expected: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, shape in architecture.tensor_shapes().items():
            if self.is_quantized(name):
                size = shape[1] if group_size == -1 else group_size
                if shape[0] * bits % 32 or shape[1] * bits % 32 or shape[1] % size:
                    what = f"{name}, {list(shape)}, cannot be packed in {bits} bits and groups of {size}"
                    raise ArtifactError(what, where=str(folder / NAME), hint=AGAIN)
                for part, (packed, dtype) in packed_layout(shape, bits, size).items():
                    expected[f"{_prefix(name)}.{part}"] = _DTYPE_NAMES[dtype], packed
            else:
                expected[name] = "F16", shape
        check_tensors(self._entries, expected, folder)

    def read(self, name: str) -> Tensor:
        """Return a tensor, dequantized to fp32, by its name in a checkpoint.

        Raises:
            ArtifactError: a value is not finite, or the groups are not of the same size.
        """
        return self.quantized(name).dequantize() if self.is_quantized(name) else self._load(name).float()

    def quantized(self, name: str) -> Quantized:
        """Return the integers of a linear layer's weight by its name in a checkpoint.

        Raises:
            ArtifactError: see :meth:`read`.
        """
        prefix = _prefix(name)
        parts = {part: self._load(f"{prefix}.{part}") for part in PARTS}
        groups, count = parts["g_idx"], len(parts["scales"])
        in_range = groups.min() >= 0 and groups.max() < count
        if not in_range or (torch.bincount(groups, minlength=count) != len(groups) // count).any():
            what = f"{prefix}.g_idx does not give each of {count} groups as many inputs"
            raise ArtifactError(what, where=self._where(f"{prefix}.g_idx"), hint=AGAIN)
        return unpack(parts, self._bits)

    def is_quantized(self, name: str) -> bool:
        """Return whether the artifact stores a tensor of a checkpoint, by its name there, as integers."""
        return name.endswith(_QUANTIZED) or (self._head and name == HEAD)

    def _load(self, name: str) -> Tensor:
        return read_tensor(name, self._entries[name])

    def _where(self, name: str) -> str:
        return str(self._entries[name].file)


_QUANTIZED = tuple(f"{linear}.weight" for linear in LINEARS)
_DTYPE_NAMES = {torch.float16: "F16", torch.int32: "I32"}


def read(folder: Path) -> GptqWeights:
    """Open an artifact's weights.

    Raises:
        ArtifactError: a file is missing or damaged, a tensor is not as ``config.json`` says, or ``config.json`` names
            another layout than GPTQ version 1.
        SourceError: ``config.json`` is not that of a GPT-NeoX.
    """
    architecture, _, fields = read_artifact_config(folder)
    _require(fields, folder, "quant_method", ("gptq",))
    _require(fields, folder, "checkpoint_format", ("gptq",))
    _require(fields, folder, "bits", (2, 3, 4, 8))
    _require(fields, folder, "group_size", (32, 64, 128, -1))
    _require(fields, folder, "lm_head", (False, True))
    _check_copy(fields, folder)
    return GptqWeights(folder, architecture, fields["bits"], fields["group_size"], head=fields["lm_head"])


def auto_gptq_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the content of :data:`QUANTIZE_CONFIG` for the `quantization_config` of a ``config.json``.

    It names the file of the weights, because auto-gptq otherwise looks for ``gptq_model-4bit-128g.safetensors``.
    """
    shared = {key: value for key, value in fields.items() if key != "modules_in_block_to_quantize"}
    return shared | {"model_file_base_name": "model"}


def _check_copy(fields: dict[str, Any], folder: Path) -> None:
    """Refuse a :data:`QUANTIZE_CONFIG` that contradicts config.json: auto-gptq would then read other weights."""
    path = own_file(folder, QUANTIZE_CONFIG, ArtifactError)
    if path is not None and read_object(path, ArtifactError, AGAIN) != auto_gptq_fields(fields):
        raise ArtifactError("does not say what config.json says", where=str(path), hint=AGAIN)


def _prefix(name: str) -> str:
    return name.removesuffix(".weight")


def _require(fields: dict[str, Any], folder: Path, key: str, values: tuple[object, ...]) -> None:
    value = fields.get(key)
    if value not in values or type(value) not in map(type, values):  # 4.0 and True are equal to 4 and 1
        allowed = " or ".join(map(repr, values))
        raise ArtifactError(
            f"quantization_config.{key} is {value!r:.80}; only {allowed} is handled",
            where=str(folder / "config.json"),
            hint="open an artifact that pythia-quant wrote",
        )
