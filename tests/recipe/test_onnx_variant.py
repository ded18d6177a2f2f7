"""Which choice each tensor gets, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pythia_quant.recipe.onnx_variant import Choice, OnnxSettings


def settings(**keys: Any) -> OnnxSettings:
    return OnnxSettings.model_validate({"format": "onnx", **keys})


def test_the_head_is_multiplied_in_two_terms_unless_told_otherwise() -> None:
    assert settings().head_choice() == Choice("int8", 64, "int8x2")
    assert settings(activations="fp32").head_choice() == Choice("int8", 64, "fp32")
    assert settings(tensors={"head": {"activations": "int8"}}).head_choice() == Choice("int8", 64, "int8")
    assert settings(head="int8-channel").head_choice() == Choice("int8-channel", 0, "int8")


def test_the_nearest_exception_wins_key_by_key() -> None:
    chosen = settings(
        tensors={
            "attention.dense": {"weights": "int4", "block_size": 32},
            "layers.3.attention.dense": {"activations": "fp32"},
        }
    )
    assert chosen.linear_choice(2, "attention.dense") == Choice("int4", 32, "int8")
    assert chosen.linear_choice(3, "attention.dense") == Choice("int4", 32, "fp32")
    assert chosen.linear_choice(3, "mlp.dense_h_to_4h") == Choice("int8", 64, "int8")


def test_stored_bits_count_scales() -> None:
    assert settings().stored_bits() == (8.5, 8.5)
    assert settings(weights="int4", block_size=32, head="fp32").stored_bits() == (5, (9 + 32) / 2)
    assert settings(weights="int8-channel").stored_bits()[0] == 8
    assert settings(head="int4", frequent_tokens=12_064).stored_bits()[1] == pytest.approx((8.5 + 4.5 + 1) / 2)
    assert settings(tensors={"attention.dense": {"weights": "fp32"}}).stored_bits()[0] == pytest.approx(
        (32 + 11 * 8.5) / 12
    )


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"tensors": {"mlp.dense": {"weights": "fp32"}}}, "'mlp.dense' is no tensor; did you mean 'mlp.dense_"),
        ({"tensors": {"layers.x.head": {"weights": "fp32"}}}, "'layers.x.head' is no tensor"),
        ({"tensors": {"embeddings": {"weights": "int8-channel"}}}, "looked up"),
        ({"tensors": {"head": {"bits": 4}}}, "unknown key 'bits'"),
        ({"activations": "fp32", "weights": "int8-channel"}, "multiplied by int8 activations"),
        ({"weights": "fp32", "head": "fp32"}, "with fp32 weights say activations: fp32"),
        ({"block_size": 48}, "16, 32, 64 or 128"),
        ({"frequent_tokens": 2048}, "neither embeddings nor head are int4"),
        ({"frequent_tokens": -1, "head": "int4"}, "greater than or equal to 0"),
    ],
)
def test_what_does_not_go_together_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(**keys)


def test_misfits_name_the_setting() -> None:
    assert settings().fits(128, 512, 6) is None
    misfit = settings(tensors={"head": {"block_size": 128}}).fits(64, 256, 6)
    assert misfit is not None
    assert misfit.keys == ("tensors", "head", "block_size")
    assert "choose from: 16, 32, 64" in misfit.why
    misfit = settings(tensors={"layers.6.attention.dense": {"weights": "fp32"}}).fits(64, 256, 6)
    assert misfit is not None
    assert misfit.why == "the model has layers 0 to 5"
    assert settings(weights="fp32", embeddings="fp32", head="fp32", activations="fp32").fits(24, 96, 2) is None
