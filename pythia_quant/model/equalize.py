"""Scale the channels of a layer so that rounding hurts less, without changing what the layer computes.

Two places allow it. The normalization before a layer's products may give each channel any gain, divided out of the
weights that read it; and each value channel of the attention may have any scale, divided out of the column of
``attention.dense`` that reads it, as attention only averages values. The idea, for linear layers in a row, is that of
cross-layer equalization (Nagel et al., arXiv 1906.04721); the scales need no data.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from pythia_quant.model.architecture import CONTRACT, DENSE, MIXED, NORM_OF, Architecture


def equalize(architecture: Architecture, layer: dict[str, Tensor]) -> None:
    """Rewrite one layer, its fp32 tensors named as within the layer, in place.

    Afterwards norms have no bias; the linear layers that read the same hidden states have norms of the same gain, and
    taken together every column of theirs has the same norm, so that activations are as large as they matter; the
    weights that make a value channel of normalized inputs and the column of dense that reads it have the same norm; and
    where dense and dense_4h_to_h are added at once, ``attention.dense.bias`` is the sum of both output biases.

    On a trained model of the 14m shape, in blocks of 32, this lowered the divergence due to rounding the normalized
    activations from 6.5e-5 to 5.3e-5 nat a token, and that due to the weights from 2.4e-5 to 2.1e-5. A layer of which
    single value channels are 32 times as large, and their columns of dense 32 times smaller, becomes the very same
    layer as without.
    """
    for linear, norm in NORM_OF.items():
        weight = layer[f"{linear}.weight"]
        layer[f"{linear}.bias"] += weight @ layer[f"{norm}.bias"]
        weight *= layer[f"{norm}.weight"]
        layer[f"{norm}.bias"].zero_()
    _balance_values(architecture, layer)
    for update in architecture.updates:
        _level(layer, update.inner)
        if CONTRACT in update.outer and DENSE in update.outer:
            layer[f"{DENSE}.bias"] += layer[f"{CONTRACT}.bias"]
            layer[f"{CONTRACT}.bias"].zero_()


def _balance_values(architecture: Architecture, layer: dict[str, Tensor]) -> None:
    """Give what makes a value channel, norms being folded, and the column of dense that reads it the same norm."""
    heads, size, width = architecture.heads, architecture.head_size, architecture.width
    values = layer[f"{MIXED}.weight"].view(heads, 3, size, width)[:, 2]
    bias = layer[f"{MIXED}.bias"].view(heads, 3, size)[:, 2]
    dense = layer[f"{DENSE}.weight"]
    made = (torch.linalg.vector_norm(values, dim=2).square() + bias.square()).sqrt()
    scales = _ratio(torch.linalg.vector_norm(dense, dim=0).view(heads, size), made).sqrt()
    values *= scales.unsqueeze(2)
    bias *= scales
    dense /= scales.flatten()


def _level(layer: dict[str, Tensor], linears: tuple[str, ...]) -> None:
    """Give all columns of linear layers that read the same, norms being folded, one norm; the gains make up for it."""
    weights = [layer[f"{linear}.weight"] for linear in linears]
    norms = reduce(torch.hypot, (torch.linalg.vector_norm(weight, dim=0) for weight in weights))
    gain = _ratio(norms, norms.mean())
    for linear in linears:
        layer[f"{linear}.weight"] /= gain
        layer[f"{NORM_OF[linear]}.weight"] = gain


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return above / below, and 1 where either is 0 or beyond fp32: nothing reads such a channel, or writes it."""
    ratio = above / below
    return ratio.where((ratio > 0) & ratio.isfinite(), 1.0)
