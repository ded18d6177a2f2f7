"""Options of tensors, and settings with choices: an artifact has the bytes that were reckoned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import TINY

from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.gguf.writer import tensor_types
from pythia_quant.recipe.gguf_variant import GgufSettings
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.recipe.variants import GptqSettings, parse_variant
from pythia_quant.tune.choices import (
    describe,
    is_tunable,
    onnx_choice,
    options_of,
    tensor_keys,
    uniform_choices,
    with_choices,
)

GGUF, ONNX = GgufSettings(format="gguf"), OnnxSettings(format="onnx")


@pytest.mark.parametrize("settings", [GGUF, ONNX], ids=["gguf", "onnx"])
def test_every_tensor_is_stored_as_chosen(settings: VariantSettings) -> None:
    options = {key: options_of(settings, TINY, key) for key in tensor_keys(TINY)}
    choices = {key: names[index % len(names)] for index, (key, names) in enumerate(options.items())}
    chosen = with_choices(settings, choices)
    assert parse_variant(chosen.model_dump(mode="json")) == chosen
    assert chosen.fits(TINY.width, TINY.mlp_width, TINY.layers) is None
    for key, option in choices.items():
        if isinstance(chosen, GgufSettings):
            assert tensor_types(chosen, TINY)[tensor_keys(TINY)[key]] == option
        elif isinstance(chosen, OnnxSettings):
            stored = chosen.embeddings_choice() if key == "embeddings" else chosen.head_choice()
            if key.startswith("layers."):
                _, index, name = key.split(".", 2)
                stored = chosen.linear_choice(int(index), name)
            assert (stored.weights, stored.block_size) == (
                onnx_choice(option, key).weights,
                onnx_choice(option, key).block_size,
            )


def test_types_that_do_not_suit_a_width_are_no_options() -> None:
    assert "q4_k" not in options_of(GGUF, TINY, "layers.0.attention.dense")
    assert "q4_k" in options_of(GGUF, TINY, "layers.0.mlp.dense_4h_to_h")
    for key in tensor_keys(TINY):  # 128 divides one of the two widths only, which recipes refuse
        options = options_of(ONNX, TINY, key)
        assert "int4/64" in options
        assert "int4/128" not in options
    narrow = replace(TINY, width=16, mlp_width=64)
    assert options_of(ONNX, narrow, "head") == ["int4/16", "fp32"]


def test_uniform_choices_need_no_exceptions() -> None:
    options = {key: options_of(GGUF, TINY, key) for key in tensor_keys(TINY)}
    every = uniform_choices(options)
    assert len(every) == len(options["head"]) ** 3  # q4_k and the like fit one of the widths only
    for choices in every[:20]:
        settings = with_choices(GGUF, choices)
        assert isinstance(settings, GgufSettings)
        assert not settings.tensors
        assert describe(choices).startswith("layers ")


def test_variants_that_hold_others_integers_are_not_tuned() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "demo.yaml")
    tunable = [name for name, settings in recipe.settings.variants.items() if is_tunable(settings)]
    assert tunable == ["onnx-int8", "gguf-q4", "gguf-q8"]
    assert not is_tunable(GptqSettings(format="gptq"))
