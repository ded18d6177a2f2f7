"""What the files that other programs read say about a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import TINY
from transformers import AutoConfig, GPTNeoXConfig

from pythia_quant.formats.onnx.client_configs import write_configs
from pythia_quant.model.architecture import SpecialTokens
from pythia_quant.model.config import read_config


@pytest.mark.parametrize(("name", "kind"), [("model.onnx", "fp32"), ("model_quantized.onnx", "q8")])
def test_each_program_is_led_to_the_model(tmp_path: Path, name: str, kind: str) -> None:
    write_configs(tmp_path, TINY, tmp_path / "onnx" / name)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": kind, "use_external_data_format": {name: 1}}
    assert json.loads((tmp_path / "genai_config.json").read_text())["model"]["decoder"]["filename"] == f"onnx/{name}"


def test_config_is_still_understood_by_us_and_by_transformers(tmp_path: Path) -> None:
    write_configs(tmp_path, TINY, tmp_path / "onnx" / "model.onnx")
    assert read_config(tmp_path / "config.json") == TINY
    assert isinstance(AutoConfig.from_pretrained(tmp_path), GPTNeoXConfig)


@pytest.mark.parametrize("end", [None, 7])
def test_genai_stops_where_the_model_does(tmp_path: Path, end: int | None) -> None:
    write_configs(
        tmp_path,
        replace(TINY, tokens=SpecialTokens(end, () if end is None else (end,))),
        tmp_path / "onnx" / "model.onnx",
    )
    model = json.loads((tmp_path / "genai_config.json").read_text())["model"]
    assert [model.get(f"{name}_token_id") for name in ("bos", "eos", "pad")] == [end] * 3
