"""Write safetensors in shards, with no more than one shard in memory."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from pythia_quant.model.weights import INDEX_SUFFIX, SAFETENSORS

SHARD_BYTES = 2 * 10**9


class ShardWriter:
    """Collects tensors and writes ``model.safetensors``, or numbered shards with an index when they are many.

    Args:
        folder: where to write.
        shard_bytes: a shard is closed before it would exceed this size.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._limit = folder, shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[list[str]] = []
        self._total_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Add one tensor; it may be written now or with a later one."""
        size = tensor.numel() * tensor.element_size()
        if self._pending and self._pending_bytes + size > self._limit:
            self._flush()
        self._pending[name] = tensor.contiguous()
        self._pending_bytes += size
        self._total_bytes += size

    def close(self) -> None:
        """Write what is pending, and the index when there is more than one shard."""
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
