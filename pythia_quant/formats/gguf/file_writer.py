"""Write a GGUF file with the package ``gguf``, one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from torch import Tensor

from pythia_quant.formats.gguf.metadata import ARCHITECTURE
from pythia_quant.formats.gguf.names import tensor_name
from pythia_quant.quantizers.ggml import TYPES, Packed


class GgufFile:
    """A file that is being written. Its keys and the place of every tensor are written first.

    Args:
        path: the file.
        values: the keys and their values.
        tensors: the type and shape of each tensor, by its name in a checkpoint, in the order of the file.
    """

    def __init__(
        self, path: Path, values: Mapping[str, Any], tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    ) -> None:
        self._writer = GGUFWriter(path, ARCHITECTURE)
        for key, value in values.items():
            if key != "general.architecture":  # which the package has added
                self._writer.add_key_value(key, value, *_kind(value))
        self._names = list(tensors)
        for name, (kind, shape) in tensors.items():
            block = TYPES[kind]
            row = (*shape[:-1], shape[-1] // block.block * block.size)
            self._writer.add_tensor_info(
                tensor_name(name), row, np.dtype(np.uint8), int(np.prod(row)), GGMLQuantizationType(block.code)
            )
        self._writer.write_header_to_file()
        self._writer.write_kv_data_to_file()
        self._writer.write_ti_data_to_file()

    def add(self, name: str, tensor: Packed | Tensor) -> None:
        """Write the next tensor: packed, or fp32 of one dimension."""
        if (expected := self._names.pop(0)) != name:
            raise AssertionError(f"{name} is written where {expected} is due")
        data = tensor.data if isinstance(tensor, Packed) else tensor.contiguous()
        self._writer.write_tensor_data(data.numpy())

    def close(self) -> None:
        """End the file."""
        self._writer.close()


def _kind(value: Any) -> tuple[GGUFValueType, ...]:
    if isinstance(value, list):
        return GGUFValueType.ARRAY, GGUFValueType.get_type(value[0])
    if isinstance(value, int) and not isinstance(value, bool):
        return (GGUFValueType.UINT32,)
    return (GGUFValueType.get_type(value),)
