"""A GPTQ artifact run one layer at a time computes what it computes whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gptq_models import convert, source, tokens

from pythia_quant.formats.gptq.runtime import open_layers, open_runtime
from pythia_quant.runtimes.protocol import logits


@pytest.mark.parametrize("settings", [{}, {"bits": 8}, {"head": "quantized", "activation_order": "dynamic"}])
def test_same_logits(tmp_path: Path, settings: dict[str, Any]) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact", **settings)
    ids = tokens(2, 30)
    whole, layers = open_runtime(tmp_path / "artifact", threads=1), open_layers(tmp_path / "artifact", threads=1)
    expected = whole.logits(ids)
    torch.testing.assert_close(logits(layers, ids), expected, rtol=0, atol=0.01 * float(expected.abs().max()))
    assert layers.description == f"{whole.description}, layer by layer"
