"""What choices for all tensors cost together, before anything is converted: rounded, and run in fp32 on search windows.

A conversion with its measurement takes as long as dozens of these passes, and what tensors cost alone does not add up.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from pythia_quant.core.progress import Progress
from pythia_quant.model.architecture import EMBEDDING, HEAD, LINEARS
from pythia_quant.model.forward import LayerWeights, read_layer
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.tune.alone import CalibrationInputs, Inputs, Rounder, changed_layer, equalized_layer
from pythia_quant.tune.choices import Choices
from pythia_quant.tune.effect import Effects
from pythia_quant.tune.sensitivity import Search, rounder_of


class Together:
    """Computes the divergence of choices on the search windows.

    The weights are those of a conversion where that rounds layers to nearest, as ONNX does. Where it solves them, as
    GGUF may, that would take as long as a conversion: :attr:`foresees` is False, and nothing is computed.

    Args:
        search: the search.
        folder: a folder for the original model's states.
        progress: receives how far the work is.

    Attributes:
        seconds: the processor's time of all that was computed.
    """

    def __init__(self, search: Search, folder: Path, progress: Progress) -> None:
        self._search, self._folder, self._progress = search, folder, progress
        self._source = search.inputs.source.weights
        self._rounder = rounder_of(search.settings, quick=not isinstance(search.settings, OnnxSettings))
        self._effects: Effects | None = None
        self._tables: dict[str, tuple[str, Tensor]] = {}
        self._inputs: Inputs | None = None
        self._known: dict[tuple[tuple[str, str], ...], float] = {}
        self.seconds = 0.0

    @property
    def foresees(self) -> bool:
        """Whether weights are rounded as a conversion would."""
        return not rounder_of(self._search.settings, quick=False).solves

    @torch.no_grad()
    def divergence(self, choices: Choices) -> float:
        """Return the KL divergence of choices, nats a token, of the weights alone; each is computed once."""
        key = tuple(sorted(choices.items()))
        if key not in self._known:
            start = time.process_time()
            self._progress.step("foreseeing choices", len(self._known), len(self._known) + 1)
            self._known[key] = fmean(self._of(choices))
            self.seconds += time.process_time() - start
        return self._known[key]

    def _of(self, choices: Choices) -> list[float]:
        if self._effects is None:
            self._effects = Effects(self._source, torch.from_numpy(self._search.text.windows), self._folder)
            self._effects.prepare(self._progress)
        embeddings = self._table("embeddings", choices["embeddings"])
        return self._effects.of_model(
            embeddings, lambda index: _layer(self._rounder, index, choices, self), self._table("head", choices["head"])
        )

    def source_layer(self, index: int) -> dict[str, Tensor]:
        """Return a layer of the source, fp32, equalized."""
        return equalized_layer(self._source, index)

    def _table(self, key: str, option: str) -> Tensor:
        """Return embeddings or head as an option rounds them; the last one of each is kept."""
        if key not in self._tables or self._tables[key][0] != option:
            if key == "embeddings":
                table = self._source.read(EMBEDDING).float()
                rounded = self._rounder.embeddings(table, option, read_layer(self._source, 0))
            else:
                solves = self._rounder.solves_head and option.startswith("int4")
                rounded = self._rounder.head(
                    self._source.read(HEAD).float(), option, self._head_inputs() if solves else None
                )
            self._tables[key] = (option, rounded.weight)
        return self._tables[key][1]

    def _head_inputs(self) -> Inputs | None:
        if self._inputs is None and (windows := self._search.solving).numel():
            inputs = CalibrationInputs(self._source, windows, self._folder / "calibration")
            for index in range(self._source.architecture.layers):
                inputs.layer(index, equalized_layer(self._source, index), needed=False)
            self._inputs = inputs.head()
        return self._inputs


def _layer(rounder: Rounder, index: int, choices: Choices, together: Together) -> LayerWeights:
    layer: LayerWeights = together.source_layer(index)
    for name in LINEARS:
        rounded = rounder.linear(layer[f"{name}.weight"], choices[f"layers.{index}.{name}"], None)
        layer = changed_layer(layer, name, rounded)
    return layer
