"""Write config.json and genai_config.json, by which other programs find an ONNX model in its folder and run it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pythia_quant.formats.onnx import names
from pythia_quant.formats.onnx.rotary import kept_head_size
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.config import TRANSFORMERS_JS, special_tokens

# transformers.js chooses a model's file by a type that its user names; these are the types of our files.
_TYPES = {"model.onnx": "fp32", "model_quantized.onnx": "q8"}


# Settings of the search that onnxruntime-genai and transformers call the same, with the types that the former accepts.
_SEARCH: dict[str, tuple[type, ...]] = {
    "do_sample": (bool,), "temperature": (int, float), "top_k": (int,), "top_p": (int, float),
    "repetition_penalty": (int, float),
}  # fmt: skip


def write_configs(
    folder: Path, architecture: Architecture, model: Path, generation: Mapping[str, Any] | None = None
) -> None:
    """Write the configurations by which other programs find and run `model`, a file within `folder`.

    transformers, optimum and transformers.js read ``config.json``, onnxruntime-genai reads ``genai_config.json``.
    `generation` is the content of ``generation_config.json``: the end tokens, and how tokens are chosen.
    """
    config = architecture.config() | {TRANSFORMERS_JS: _transformers_js(model)}
    _write_json(folder / "config.json", config)
    _write_json(folder / "genai_config.json", _genai(architecture, model.relative_to(folder), generation or {}))


def _transformers_js(model: Path) -> dict[str, Any]:
    """Return which file transformers.js loads by default, and that this file has one file of data beside it."""
    return {"dtype": _TYPES[model.name], "use_external_data_format": {model.name: 1}}


def _genai(architecture: Architecture, model: Path, generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return onnxruntime-genai's configuration. Keys and values are allocated once, for all tokens of a sequence.

    onnxruntime-genai requires a padding token if there is an end token; the end token is used if the model has none.
    """
    tokens = special_tokens(dict(generation), architecture.vocabulary, "generation_config.json", architecture.tokens)
    special = {
        "bos_token_id": tokens.begin,
        "eos_token_id": list(tokens.ends) if len(tokens.ends) > 1 else tokens.end,
        "pad_token_id": tokens.end if tokens.pad is None else tokens.pad,
    }
    search = {
        name: generation[name]
        for name, types in _SEARCH.items()
        if type(generation.get(name)) in types  # not isinstance: True is no number here
    }
    past, present = names.past("%d"), names.present("%d")
    return {
        "model": {
            "type": "decoder",
            **{name: value for name, value in special.items() if value is not None},
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
                    "input_ids": names.IDS,
                    "attention_mask": names.MASK,
                    "past_key_names": past[0],
                    "past_value_names": past[1],
                },
                "outputs": {
                    "logits": names.LOGITS,
                    "present_key_names": present[0],
                    "present_value_names": present[1],
                },
            },
        },
        "search": {"do_sample": False, "max_length": architecture.context, "past_present_share_buffer": True} | search,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
