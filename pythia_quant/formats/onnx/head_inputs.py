"""What a head in 4 bits is solved for: the final hidden states of some calibration windows, or of random tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pythia_quant.model.architecture import FINAL_NORM, Architecture
from pythia_quant.model.forward import Forward, LayerWeights, normalize
from pythia_quant.recipe.onnx_variant import OnnxSettings

WINDOWS = (16, 512)
"""The most calibration windows, and tokens of each, that are run: more gained little on text of their kind, and lost as
much on another."""
RANDOM = (8, 256)
"""The windows of random tokens, and the tokens in each."""


def random_tokens(architecture: Architecture, windows: int, tokens: int) -> Tensor:
    """Return the same random ids in every call, int64 [windows, tokens], or fewer tokens if the context is shorter."""
    ids = np.random.default_rng(0).integers(architecture.vocabulary, size=(windows, tokens))
    return torch.from_numpy(ids[:, : architecture.context].copy())


@dataclass
class HeadInputs:
    """The hidden states of tokens in the artifact, advanced a layer at a time.

    Attributes:
        shape: the model's.
        calibration: the calibration windows, int64 [windows, tokens]; random tokens take the place of none.
        ids: the tokens, int64 [windows, tokens].
    """

    shape: Architecture
    calibration: Tensor
    ids: Tensor = field(init=False)

    def __post_init__(self) -> None:
        windows, tokens = WINDOWS
        drawn = self.calibration[:windows, : min(tokens, self.shape.context)]
        self.ids = drawn if drawn.numel() else random_tokens(self.shape, *RANDOM)
        self._forward = Forward(self.shape, self.ids)

    def begin(self, table: Tensor, stored: Tensor) -> None:  # noqa: ARG002
        """Start from the tokens' embeddings as they are in the artifact, [tokens, width]."""
        self._forward.hidden = stored.view(*self.ids.shape, -1)

    def after(self, layer: LayerWeights, settings: OnnxSettings, index: int) -> None:  # noqa: ARG002
        """Apply a layer as a reader of the artifact will get it."""
        self._forward.layer(layer)

    def hessian(self, gain: Tensor, bias: Tensor) -> Tensor:
        """Return Σ x xᵀ of what the head reads, fp32 [width, width].

        Args:
            gain: of the final norm, fp32 [width].
            bias: likewise.
        """
        norm = {f"{FINAL_NORM}.weight": gain, f"{FINAL_NORM}.bias": bias}
        inputs = normalize(self.shape, norm, FINAL_NORM, self._forward.hidden).flatten(0, 1)
        return inputs.T @ inputs
