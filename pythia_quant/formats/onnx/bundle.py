"""The files beside an ONNX model that let other programs run the same folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pythia_quant.architecture import Architecture
from pythia_quant.config_file import TRANSFORMERS_JS
from pythia_quant.formats.onnx.rotary import kept_head_size

# transformers.js chooses a model's file by the type asked for; these are the names of ours.
_TYPES = {"model.onnx": "fp32", "model_quantized.onnx": "q8"}


def write_configs(folder: Path, architecture: Architecture, model: Path) -> None:
    """Write what programs read to find and run `model`, a file within `folder`.

    ``config.json`` serves transformers, optimum and transformers.js, ``genai_config.json`` onnxruntime-genai.
    """
    config = architecture.config() | {TRANSFORMERS_JS: _transformers_js(model)}
    _write_json(folder / "config.json", config)
    _write_json(folder / "genai_config.json", _genai(architecture, model.relative_to(folder)))


def _transformers_js(model: Path) -> dict[str, Any]:
    """Return the file to load when no type is asked for, and that one file of data lies beside it."""
    return {"dtype": _TYPES[model.name], "use_external_data_format": {model.name: 1}}


def _genai(architecture: Architecture, model: Path) -> dict[str, Any]:
    """Return onnxruntime-genai's configuration; it allocates keys and values once, for as many tokens as asked for.

    Rows of a batch are padded with the end of text, the only special token that every source is known to have.
    """
    end = architecture.tokens.end
    special = {} if end is None else {f"{name}_token_id": end for name in ("bos", "eos", "pad")}
    return {
        "model": {
            "type": "decoder",
            **special,
            "vocab_size": architecture.vocabulary,
            "context_length": architecture.context,
            "decoder": {
                "filename": model.as_posix(),
                "hidden_size": architecture.width,
                "head_size": kept_head_size(architecture),
                "num_attention_heads": architecture.heads,
                "num_key_value_heads": architecture.heads,
                "num_hidden_layers": architecture.layers,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"do_sample": False, "max_length": architecture.context, "past_present_share_buffer": True},
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
