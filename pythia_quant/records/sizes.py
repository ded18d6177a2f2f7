"""The size of weights on disk, counted in one way for artifacts of every format and for a source in a dtype."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from pythia_quant.model.architecture import ATTENTION_BIASES, HEAD, Architecture

WEIGHT_FILES = (".safetensors", ".onnx", ".onnx_data", ".gguf")
"""The endings of the names of an artifact's files that hold weights."""
_DTYPES = {"float16": ("F16", 2), "bfloat16": ("BF16", 2), "float32": ("F32", 4)}


def of_weight_files(sizes: Mapping[str, int]) -> int:
    """Return the bytes of an artifact's files that hold weights, of the sizes of all its files by name.

    They count as they lie: with scales, zero points, headers, padding, and the graph and its tables. Tokenizer,
    configurations, the index of shards and records do not count; within a GGUF file, the tokenizer does.
    """
    return sum(size for name, size in sizes.items() if name.endswith(WEIGHT_FILES))


def checkpoint_bytes(architecture: Architecture, dtype: str) -> int:
    """Return the bytes of a source as one safetensors file in a dtype, whatever its own files are.

    Those may be in another dtype, or hold masks and an optimizer's state. A tied matrix is stored once. The header is
    what the safetensors library writes: its length in eight bytes, then JSON, filled up to a multiple of eight.

    Args:
        architecture: of the source.
        dtype: torch's name of ``float16``, ``bfloat16`` or ``float32``.
    """
    name_of_dtype, width = _DTYPES[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in sorted(architecture.tensor_shapes().items()):
        lacks_bias = not architecture.attention_biases and name.endswith(ATTENTION_BIASES)
        if lacks_bias or (architecture.tied and name == HEAD):
            continue
        start, end = end, end + width * math.prod(shape)
        header[name] = {"dtype": name_of_dtype, "shape": shape, "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + 8 * math.ceil(length / 8) + end


def bits_per_weight(size: int, parameters: int) -> float:
    """Return the bits that `size` bytes are for each of the source's parameters, of which a tied one counts once."""
    return 8 * size / parameters
