"""The input and the result of a format's writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.core.settings import VariantSettings
from pythia_quant.model.weights import INDEX_SUFFIX, SAFETENSORS, WeightReader, all_finite
from pythia_quant.quantizers.grid import Quantized

S = TypeVar("S", bound=VariantSettings)


class CodesReader(WeightReader, Protocol):
    """Reads an artifact whose linear layers are integers, as the integers themselves or dequantized."""

    def quantized(self, name: str) -> Quantized:
        """Return a linear layer's integers; `name` is the name of its weight in a checkpoint.

        Raises:
            ArtifactError: a stored tensor is damaged.
        """
        ...


@dataclass(frozen=True)
class Job(Generic[S]):
    """What a format's writer needs for one conversion.

    Attributes:
        source: the source's weights, which the writer quantizes.
        settings: the variant's settings.
        folder: a scratch folder with the source's tokenizer; the writer puts the weights and ``config.json`` there, and
            nothing elsewhere.
        probe: the probe tokens, int64 [windows, tokens]; the writer runs them through the weights that it intends.
        calibration: the calibration windows, int64 [windows, tokens]; empty for a quantizer that does not calibrate.
        progress: receives how far the work is.
        work: the work folder, which stays after a killed conversion, so that the same conversion can go on from it;
            None for a conversion that always begins anew.
        codes: the artifact that the integers of the layers are taken from; None if the writer quantizes the layers.
        generation: the content of the artifact's ``generation_config.json``; the writer reads it, and does not write
            that file.
        origin: the repository of the source on the hub; empty if it has none.
    """

    source: WeightReader
    settings: S
    folder: Path
    probe: Tensor
    calibration: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int64))
    progress: Progress = SILENT
    work: Path | None = None
    codes: CodesReader | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""


@dataclass(frozen=True)
class Written:
    """What a writer returns.

    Attributes:
        logits: the logits of the intended weights on the probe tokens in fp32 arithmetic, fp32 [windows, tokens,
            vocabulary].
        notes: facts for the manifest, such as the damping or each layer's error.
    """

    logits: Tensor
    notes: dict[str, object] = field(default_factory=dict)


def to_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a tensor to the dtype that a format stores; `name` is the tensor's name in messages.

    Raises:
        QuantizationError: a value overflows; the largest one in fp16 is 65504.
    """
    converted = tensor.to(dtype)
    if not all_finite(converted):
        raise QuantizationError(
            f"{name} holds {float(tensor.abs().max()):.4g}, which {str(dtype).removeprefix('torch.')} cannot",
            hint="use the onnx format, which keeps unquantized tensors in fp32",
        )
    return converted


SHARD_BYTES = 2 * 10**9


class ShardWriter:
    """Collects tensors, and writes them as ``model.safetensors`` or, if they are large, as shards with an index.

    Args:
        folder: the folder that the files are written to.
        shard_bytes: the size that a shard of several tensors does not exceed.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._limit = folder, shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[list[str]] = []
        self._total_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Add one tensor, which may be written only by a later call."""
        size = tensor.numel() * tensor.element_size()
        if self._pending and self._pending_bytes + size > self._limit:
            self._flush()
        self._pending[name] = tensor.contiguous()
        self._pending_bytes += size
        self._total_bytes += size

    def close(self) -> None:
        """Write the pending tensors, and the index if there is more than one shard."""
        self._flush()
        if len(self._shards) == 1:
            self._part(0).rename(self._folder / SAFETENSORS)
            return
        weight_map: dict[str, str] = {}
        for index, names in enumerate(self._shards):
            file = f"model-{index + 1:05}-of-{len(self._shards):05}.safetensors"
            self._part(index).rename(self._folder / file)
            weight_map |= dict.fromkeys(names, file)
        content = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
        (self._folder / f"{SAFETENSORS}{INDEX_SUFFIX}").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")

    def _flush(self) -> None:
        part = self._part(len(self._shards))
        part.touch()
        mode = part.stat().st_mode
        save_file(self._pending, part, metadata={"format": "pt"})
        part.chmod(mode)  # safetensors makes files that nobody else may read, whatever the umask
        self._shards.append(list(self._pending))
        self._pending, self._pending_bytes = {}, 0

    def _part(self, index: int) -> Path:
        return self._folder / f"part-{index}.safetensors"
