"""Private names of torch and transformers that this package relies on, each used only through here.

tests/test_compat.py fails when a release renames one or changes what it computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # it takes seconds to import, and most that import this module do without
    from transformers import GPTNeoXConfig


def has_amx_tiles() -> bool:
    """Say whether the processor has matrix units in which torch would round fp32 factors to bf16."""
    return torch.cpu._is_amx_tile_supported()


def has_bf16_products() -> bool:
    """Say whether oneDNN multiplies bf16 matrices on this processor; torch computes them slowly elsewhere."""
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported


def pack_int4(codes: Tensor) -> Tensor:
    """Return 4-bit codes, int32 [out, in] of 0 to 15, in the order in which :func:`int4_product` reads them."""
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    return packed


def int4_product(rows: Tensor, packed: Tensor, group_size: int, scales: Tensor) -> Tensor:
    """Multiply by a weight of 4-bit codes: ``(code - 8) * scale + offset``.

    Args:
        rows: bf16 [rows, in].
        packed: from :func:`pack_int4`.
        group_size: neighbours along `in` that share a scale: 32, 64, 128 or 256.
        scales: bf16 [groups, out, 2]: scale and offset.

    Returns:
        bf16 [rows, out].
    """
    product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, group_size, scales)
    return product


def use_sdpa(config: GPTNeoXConfig) -> None:
    """Make layers that are built from this configuration, without a model, use torch's fused attention."""
    config._attn_implementation = "sdpa"
