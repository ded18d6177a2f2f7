"""Check the tensors that bitsandbytes stores beside a quantized weight: its native code does not check them."""

from __future__ import annotations

import json
import math

from torch import Tensor

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.foreign_files import parse_json
from pythia_quant.formats.tensor_files import AGAIN
from pythia_quant.recipe.variants import BnbSettings

BLOCK_SIZE, NESTED_BLOCK_SIZE = 64, 256
"""The number of weights that share a scale, and of scales that share one."""
_MOST_FIELDS = 4096
"""Bytes of the JSON among the stored tensors; it has about 170."""


def fields_name(settings: BnbSettings) -> str:
    """Return the suffix of the tensor that holds JSON, as bytes."""
    return f".quant_state.bitsandbytes__{settings.quant_type}"


def layout(shape: tuple[int, ...], settings: BnbSettings) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of what is stored for a weight, [out, in], by suffix; without :func:`fields_name`."""
    blocks = -(-math.prod(shape) // BLOCK_SIZE)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        "": ("U8", (-(-math.prod(shape) // 2), 1)),
        ".absmax": ("U8" if settings.double_quant else "F32", (blocks,)),
        ".quant_map": ("F32", (16,)),
    }
    if settings.double_quant:
        tensors |= {
            ".nested_absmax": ("F32", (-(-blocks // NESTED_BLOCK_SIZE),)),
            ".nested_quant_map": ("F32", (256,)),
        }
    return tensors


def check_fields(stored: Tensor, name: str, shape: tuple[int, ...], settings: BnbSettings, where: str) -> None:
    """Check the JSON that says how a weight is to be understood.

    Args:
        stored: its bytes, uint8.
        name: of the tensor.
        shape: the weight's, [out, in].
        settings: the artifact's.
        where: the file.

    Raises:
        ArtifactError: it says something else than shape and settings.
    """
    expected: dict[str, object] = {
        "quant_type": settings.quant_type,
        "blocksize": BLOCK_SIZE,
        "dtype": settings.compute_dtype,
        "shape": list(shape),
    }
    if settings.double_quant:
        expected |= {"nested_blocksize": NESTED_BLOCK_SIZE, "nested_dtype": "float32"}
    fields = parse_json(stored.numpy().tobytes(), f"{where}, {name}", ArtifactError, AGAIN)
    offset = fields.pop("nested_offset", None) if isinstance(fields, dict) and settings.double_quant else 0.0
    same = json.dumps(fields, sort_keys=True) == json.dumps(expected, sort_keys=True)  # where 64.0 is not 64
    if not same or not isinstance(offset, float) or not math.isfinite(offset):
        raise ArtifactError(f"{name} says {fields!s:.200}; {expected} is expected", where=where, hint=AGAIN)


def is_fields(dtype: str, shape: tuple[int, ...]) -> bool:
    """Say whether a tensor can be that JSON: some bytes, and not many."""
    return dtype == "U8" and len(shape) == 1 and 0 < shape[0] <= _MOST_FIELDS
