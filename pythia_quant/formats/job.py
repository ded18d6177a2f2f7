"""The input and the result of a format's writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from pythia_quant.core.progress import Report, silent
from pythia_quant.core.settings import VariantSettings
from pythia_quant.model.weights import WeightReader
from pythia_quant.quantizers.grid import Quantized

S = TypeVar("S", bound=VariantSettings)


class CodesReader(WeightReader, Protocol):
    """Reads an artifact whose linear layers are integers: they come dequantized, or as they are."""

    def quantized(self, name: str) -> Quantized:
        """Return a linear layer's integers, by the name of its weight in a checkpoint.

        Raises:
            ArtifactError: what is stored is damaged.
        """
        ...


@dataclass(frozen=True)
class Job(Generic[S]):
    """One conversion.

    Attributes:
        source: the weights to quantize.
        settings: how.
        folder: an empty scratch folder; the writer puts weights and ``config.json`` there and touches nothing else.
        probe: int64 [windows, tokens], a few tokens; the writer runs them through the weights it intends.
        calibration: int64 [windows, tokens] for a quantizer that uses any, else empty.
        report: told of progress.
        work: a folder that outlives a killed conversion, for the next one like it to go on from; None for one that
            begins anew each time.
        codes: the artifact whose integers the layers take, for settings that take another variant's.
        generation: the content of the artifact's ``generation_config.json``, which is not the writer's to write.
    """

    source: WeightReader
    settings: S
    folder: Path
    probe: Tensor
    calibration: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int64))
    report: Report = silent
    work: Path | None = None
    codes: CodesReader | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """What a writer leaves beside the files.

    Attributes:
        logits: fp32 [windows, tokens, vocabulary], what the intended weights give on the probe in fp32 arithmetic.
        notes: facts for the manifest, such as the damping used or each layer's error.
    """

    logits: Tensor
    notes: dict[str, object] = field(default_factory=dict)
