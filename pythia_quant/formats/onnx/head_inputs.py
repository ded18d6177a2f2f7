"""The tokens that a head in 4 bits is solved for, and random ones, which need no text."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pythia_quant.model.architecture import Architecture

WINDOWS = (16, 512)
"""The most calibration windows, and tokens of each, that are run: more gained little on text of their kind, and lost as
much on another."""
RANDOM = (8, 256)
"""The windows of random tokens, and the tokens in each."""


def random_tokens(architecture: Architecture, windows: int, tokens: int) -> Tensor:
    """Return the same random ids in every call, int64 [windows, tokens], or fewer tokens if the context is shorter."""
    ids = np.random.default_rng(0).integers(architecture.vocabulary, size=(windows, tokens))
    return torch.from_numpy(ids[:, : architecture.context].copy())


def head_tokens(architecture: Architecture, calibration: Tensor) -> Tensor:
    """Return the tokens whose final hidden states the head is solved for, int64 [windows, tokens].

    Args:
        architecture: the model's shape.
        calibration: the calibration windows, int64 [windows, tokens]; random tokens take the place of none.
    """
    windows, tokens = WINDOWS
    drawn = calibration[:windows, : min(tokens, architecture.context)]
    return drawn if drawn.numel() else random_tokens(architecture, *RANDOM)
