"""Convert the tensors that a format stores in floating point."""

from __future__ import annotations

import torch
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.model.weights import all_finite


def to_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to the dtype a format stores.

    Raises:
        QuantizationError: a value overflows; fp16 ends at 65504.
    """
    converted = tensor.to(dtype)
    if not all_finite(converted):
        raise QuantizationError(
            f"{name} holds {float(tensor.abs().max()):.4g}, which {str(dtype).removeprefix('torch.')} cannot",
            hint="use the onnx format, which keeps unquantized tensors in fp32",
        )
    return converted
