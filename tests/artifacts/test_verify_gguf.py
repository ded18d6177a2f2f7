"""Every type of GGUF is verified against the source: rounding passes, and what was scaled does not."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from gguf_artifacts import convert, source
from torch import Tensor

from pythia_quant.artifacts.verify import compare
from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.gguf.format import GgufFormat
from pythia_quant.formats.gguf.reader import read
from pythia_quant.model.weights import WeightFiles, WeightReader
from pythia_quant.recipe.gguf_variant import FLOATS, GgufSettings, GgufType

TYPES: tuple[GgufType, ...] = get_args(GgufType)
MATRIX = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"  # 256 inputs, which every type fits


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightFiles:
    return source(tmp_path_factory.mktemp("source"))


class Scaled:
    """The weights of a reader, with one matrix scaled."""

    def __init__(self, reader: WeightReader, factor: float) -> None:
        self.reader, self.factor, self.architecture = reader, factor, reader.architecture

    def read(self, name: str) -> Tensor:
        return self.reader.read(name) * (self.factor if name == MATRIX else 1)


@pytest.mark.parametrize("kind", TYPES)
def test_rounding_is_told_from_a_scaled_matrix(weights: WeightFiles, tmp_path: Path, kind: GgufType) -> None:
    settings = GgufSettings(format="gguf", weights=kind, embeddings=kind, head=kind, quantizer="nearest")
    convert(weights, tmp_path, **settings.model_dump(exclude={"format"}))
    reader, equalized = read(tmp_path), GgufFormat().equalizes(settings)
    found = compare(reader, weights, settings, equalized=equalized, corrected=False)
    assert len(found.gains) == (0 if kind in FLOATS else 10)
    for factor in (0.93, 1.07):
        with pytest.raises(ArtifactError, match=f"{MATRIX}.* is not the source's"):
            compare(Scaled(reader, factor), weights, settings, equalized=equalized, corrected=False)


@pytest.mark.parametrize("kind", ["q5_0", "q6_k"])
def test_what_gptq_solves_passes(weights: WeightFiles, tmp_path: Path, kind: GgufType) -> None:
    settings = GgufSettings(format="gguf", weights=kind, embeddings=kind, head=kind, sweeps=0)
    convert(weights, tmp_path, **settings.model_dump(exclude={"format"}))
    found = compare(read(tmp_path), weights, settings, equalized=True, corrected=True)
    assert torch.tensor(list(found.errors.values())).isfinite().all()
    assert len(found.gains) == 10
