"""Rounding to nearest, which the package does not use: what GPTQ is compared with, and weights for other tests."""

from torch import Tensor

from pythia_quant.quantizers import grid


def round_to_nearest(weight: Tensor, bits: int, group_size: int, *, symmetric: bool = True) -> grid.Quantized:
    """Round a weight, fp32 [out, in], to the nearest values; in each row, `group_size` neighbouring inputs have a grid.

    Raises:
        QuantizationError: the group size does not divide the inputs, or a scale exceeds fp16.
    """
    groups = grid.consecutive_groups(weight.shape[1], group_size)
    grouped = weight.unflatten(1, (-1, group_size))
    values = grid.fit(grouped, bits, dim=-1, symmetric=symmetric)
    return grid.Quantized(
        bits=bits,
        codes=values.encode(grouped).flatten(1),
        scales=values.scale.squeeze(-1).half(),
        zeros=values.zero.squeeze(-1).byte(),
        groups=groups,
    )
