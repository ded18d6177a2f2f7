"""GPT-NeoX models of other shapes than Pythia's: llama.cpp computes what our forward pass does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from gguf_artifacts import PROBE, SHAPE, convert, source

from pythia_quant.core.errors import QuantizationError
from pythia_quant.formats.gguf.reader import read
from pythia_quant.formats.gguf.runtime import open_runtime
from pythia_quant.model.architecture import RopeScaling, SpecialTokens
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.recipe.gguf_variant import GgufSettings, GgufType

SHAPES = {
    "whole heads rotate, sequential": replace(SHAPE, parallel_residual=False, rotary_size=16),
    "heads of 12": replace(SHAPE, width=96, heads=8, rotary_size=12),
    "64 heads of 8": replace(SHAPE, width=512, heads=64, rotary_size=2, activation="gelu_fast"),
    "positions stretched linearly": replace(SHAPE, rope_scaling=RopeScaling("linear", 2.0)),
    "another base": replace(SHAPE, rotary_base=500.0),
    "a long vocabulary, other special tokens": replace(SHAPE, vocabulary=52_224, tokens=SpecialTokens(2, (3, 4), 1)),
    "22 heads of 12": replace(SHAPE, width=264, heads=22, rotary_size=12),
}


@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_computes_what_was_intended(tmp_path: Path, name: str) -> None:
    shape = SHAPES[name]
    kind: GgufType = "f16" if shape.width % 32 else "q8_0"
    written = convert(
        source(tmp_path / "source", shape), tmp_path / "artifact", quantizer="nearest", weights=kind, embeddings=kind,
        head=kind,
    )  # fmt: skip
    reader = read(tmp_path / "artifact")
    assert (final_hidden_states(reader, PROBE) @ head_weight(reader).T - written.logits).abs().max() < 1e-4
    run = open_runtime(tmp_path / "artifact", threads=1).logits(PROBE)
    assert (run - written.logits).norm() < 0.02 * written.logits.norm()


def test_what_llama_cpp_cannot_compute_is_refused_before_work(tmp_path: Path) -> None:
    for name, change, message in (
        ("relu", {"activation": "relu"}, "activation relu"),
        ("dynamic", {"rope_scaling": RopeScaling("dynamic", 2.0)}, "dynamic scaling"),
        ("odd", {"width": 36, "heads": 4, "rotary_size": 2}, "heads of 9 channels"),
    ):
        with pytest.raises(QuantizationError, match=message):
            convert(source(tmp_path / name, replace(SHAPE, **change)), tmp_path / f"{name}-artifact")
        assert not list((tmp_path / f"{name}-artifact").glob("*.gguf"))


def test_a_width_that_blocks_do_not_divide_needs_floating_point() -> None:
    settings = GgufSettings(format="gguf")
    misfit = settings.fits(264, 1056, 2)
    assert misfit is not None
    assert misfit.why.startswith("blocks of 32 do not divide")
    floats = GgufSettings(format="gguf", weights="f16", embeddings="f16", head="f16")
    assert floats.fits(264, 1056, 2) is None
