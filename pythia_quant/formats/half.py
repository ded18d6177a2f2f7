"""What a format keeps in fp16."""

from __future__ import annotations

import torch
from torch import Tensor

from pythia_quant.errors import QuantizationError


def to_half(name: str, tensor: Tensor) -> Tensor:
    """Convert to fp16.

    Raises:
        QuantizationError: a value overflows; fp16 ends at 65504.
    """
    half = tensor.half()
    if not torch.isfinite(half).all():
        raise QuantizationError(
            f"{name} holds {float(tensor.abs().max()):.4g}, which fp16 cannot",
            hint="use the onnx format, which keeps unquantized tensors in fp32",
        )
    return half
