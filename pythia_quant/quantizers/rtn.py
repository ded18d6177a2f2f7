"""Round to nearest: each weight on its own, the yardstick for anything that looks at data."""

from __future__ import annotations

from torch import Tensor

from pythia_quant.quantizers.grid import Quantized, consecutive_groups, fit


def quantize(weight: Tensor, bits: int, group_size: int, *, symmetric: bool = True) -> Quantized:
    """Quantize a weight, fp32 [out, in], on a grid per row and `group_size` neighbouring inputs.

    Raises:
        QuantizationError: the group size does not divide the inputs, or a scale exceeds fp16.
    """
    groups = consecutive_groups(weight.shape[1], group_size)
    grouped = weight.unflatten(1, (-1, group_size))
    grid = fit(grouped, bits, dim=-1, symmetric=symmetric)
    return Quantized(
        bits=bits,
        codes=grid.encode(grouped).flatten(1),
        scales=grid.scale.squeeze(-1).half(),
        zeros=grid.zero.squeeze(-1).byte(),
        groups=groups,
    )
