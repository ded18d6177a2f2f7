"""Tensors that 8 bits do not suit are found by a sample, and stored or multiplied more finely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from onnx_models import PROBE, SHAPE, convert, source
from tiny import random_weights
from torch import Tensor
from transformers import AutoModelForCausalLM

from pythia_quant.formats.onnx.adapt import SAMPLE, Adapted, Sample, adapts
from pythia_quant.formats.onnx.data_file import StoredModel, find_model
from pythia_quant.formats.onnx.head_inputs import random_tokens
from pythia_quant.formats.onnx.rounding import excess, finer, rounded
from pythia_quant.formats.onnx.runtime import open_runtime
from pythia_quant.model.architecture import EMBEDDING, HEAD
from pythia_quant.model.source import open_source
from pythia_quant.model.weights import WeightFiles
from pythia_quant.recipe.onnx_variant import Choice, OnnxSettings

LARGE = [5, 40]
"""The channels of the residual stream that are outliers, in one block each."""


def hard(folder: Path, factor: float) -> WeightFiles:
    """Write a checkpoint with outliers in the residual stream, and a head that tells small differences."""
    tensors = {name: tensor.float() for name, tensor in random_weights(SHAPE).items()}
    tensors[HEAD] *= 8
    for name, tensor in tensors.items():
        if "attention.dense." in name or "4h_to_h" in name:
            tensor[LARGE] *= factor
    tensors[EMBEDDING][:, LARGE] *= factor
    return source(folder, tensors=tensors)


def divergence(expected: Tensor, found: Tensor) -> float:
    expected, found = (logits.float().log_softmax(-1) for logits in (expected, found))
    return float((expected.exp() * (expected - found)).sum(-1).mean())


def converted(checkpoint: WeightFiles, folder: Path, **settings: Any) -> tuple[dict[str, Any], OnnxSettings, Tensor]:
    """Convert; return the notes, the settings in the model, and what the runtime computes of the sample."""
    written = convert(checkpoint, folder, activations="int8", **settings)
    notes: Any = written.notes.get("adapted", {})
    return (
        notes,
        StoredModel(find_model(folder)).settings,
        open_runtime(folder, threads=1).logits(random_tokens(SHAPE, *SAMPLE)),
    )


def of_transformers(folder: Path, dtype: torch.dtype) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        logits: Tensor = model(random_tokens(SHAPE, *SAMPLE)).logits
    return logits


@pytest.mark.parametrize("kind", ["int8", "int8-channel"])
def test_the_sample_says_what_onnxruntime_and_bf16_lose(tmp_path: Path, kind: str) -> None:
    checkpoint = hard(tmp_path / "source", 30)
    expected = of_transformers(tmp_path / "source", torch.float32)
    in_bf16 = divergence(expected, of_transformers(tmp_path / "source", torch.bfloat16))
    _, _, before = converted(checkpoint, tmp_path / "before", weights=kind, adapt=False)
    notes, stored, logits = converted(checkpoint, tmp_path / "after", weights=kind)
    as_run = divergence(expected, logits)
    assert as_run < divergence(expected, before) / 3
    assert notes["sample_kl"] == pytest.approx(as_run, rel=0.05)
    assert notes["sample_kl_of_bf16"] == pytest.approx(in_bf16, rel=0.1)
    assert stored.tensors.keys() == notes["tensors"].keys()
    assert all(note["loss"] < note["loss_before"] for note in notes["tensors"].values())


def test_an_artifact_of_a_trained_model_with_outliers_is_as_good_as_bf16(tmp_path: Path) -> None:
    """Four channels of the demo's residual stream are twenty times as large, and its norms read them as they are."""
    demo = open_source("builtin:demo").weights
    tensors = {name: demo.read(name).float() for name in demo.architecture.tensor_shapes()}
    for name, tensor in tensors.items():
        if "attention.dense." in name or "4h_to_h" in name:
            tensor[[1, 44, 80, 101]] *= 20
    tensors[EMBEDDING][:, [1, 44, 80, 101]] *= 20
    checkpoint = source(tmp_path / "source", demo.architecture, tensors)
    ids = PROBE.expand(2, -1)
    logits = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "source", dtype=dtype).eval()
        with torch.no_grad():
            logits[dtype] = model(ids).logits
    convert(checkpoint, tmp_path / "artifact", activations="int8")
    as_run = divergence(logits[torch.float32], open_runtime(tmp_path / "artifact", threads=1).logits(ids))
    assert as_run < 1.5 * divergence(logits[torch.float32], logits[torch.bfloat16])


def test_nothing_is_adapted_without_outliers(tmp_path: Path) -> None:
    checkpoint = hard(tmp_path / "source", 1)
    notes, stored, logits = converted(checkpoint, tmp_path / "artifact")
    _, _, same = converted(checkpoint, tmp_path / "same", adapt=False)
    assert not notes
    assert not stored.tensors
    assert torch.equal(logits, same)


def test_tensors_that_the_recipe_names_stay(tmp_path: Path) -> None:
    checkpoint = hard(tmp_path / "source", 30)
    mine = {"embeddings": {"block_size": 32}, "mlp.dense_h_to_4h": {"block_size": 32}}
    _, stored, _ = converted(checkpoint, tmp_path / "artifact", tensors=mine)
    assert stored.embeddings_choice() == Choice("int8", 32, "fp32")
    assert {stored.linear_choice(layer, "mlp.dense_h_to_4h") for layer in range(2)} == {Choice("int8", 32, "int8")}
    assert stored.linear_choice(0, "attention.query_key_value") != Choice("int8", 64, "int8")


def test_four_bits_are_not_adapted() -> None:
    def asked(**keys: Any) -> bool:
        return adapts(OnnxSettings.model_validate({"format": "onnx", **keys}), SHAPE)

    assert asked()
    assert asked(weights="int7-channel", embeddings="fp32")
    assert not asked(weights="int4")
    assert not asked(embeddings="int4")
    assert not asked(tensors={"layers.1.attention.dense": {"weights": "int4"}})
    assert not asked(weights="fp32", head="fp32", embeddings="fp32", activations="fp32")
    assert not asked(adapt=False)


def test_each_finer_choice_loses_less() -> None:
    """Property: with an outlier in each row of inputs, every choice after the first loses less than the one before."""
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(64, 128, generator=generator), torch.randn(200, 128, generator=generator)
    inputs[:, 17] *= 50
    choices = [Choice("int8-channel", 0, "int8"), *finer(Choice("int8-channel", 0, "int8"), 64)]
    assert [(choice.weights, choice.block_size, choice.activations) for choice in choices[1:]] == [
        ("int8", 64, "int8"),
        ("int8", 64, "int8x2"),
        ("int8", 32, "int8x2"),
        ("int8", 16, "int8x2"),
        ("fp32", 0, "fp32"),
    ]
    losses = [excess(weight, inputs, choice) for choice in choices]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0


def test_inputs_are_rounded_as_by_hand() -> None:
    """Sixteen values whose largest is 127 are in steps of 1; the remainder is in steps of its own; the rest is 0."""
    inputs = torch.zeros(1, 32)
    inputs[0, :3] = torch.tensor([127.0, 3.4, -0.3])
    blocks = rounded(inputs, Choice("int8", 16, "int8"))
    assert blocks[0, :3].tolist() == [127, 3, 0]
    twice = rounded(inputs, Choice("int8", 16, "int8x2"))
    assert twice[0, :3].tolist() == pytest.approx([127, 3.4, -0.3], abs=0.4 / 254)
    lifted = rounded(torch.tensor([[-0.17, 0.0, 0.34]]), Choice("int8-channel", 0, "int8"), 0.17)
    assert lifted[0].tolist() == pytest.approx([-0.17, 0, 0.34], abs=1e-6)  # codes 0, 85 and 255
    assert torch.equal(rounded(inputs, Choice("int8", 16, "fp32")), inputs)


def test_linear_layers_of_one_product_are_adapted_together() -> None:
    adapted = Adapted(OnnxSettings(format="onnx"), SHAPE, limit=20.0)
    layer = {name.split(".", 3)[3]: tensor.float() for name, tensor in random_weights(SHAPE).items() if ".0." in name}
    layer["attention.query_key_value.weight"][3, 7] = 400  # its block is far off, while dense_h_to_4h suits 8 bits
    sample = Sample(SHAPE, compares=False)
    sample.begin(torch.randn(128, 64, generator=torch.Generator().manual_seed(0)), torch.zeros(128, 64))
    sample.before(layer)
    adapted.layer(0, layer, sample.inputs)
    assert {"layers.0.attention.query_key_value", "layers.0.mlp.dense_h_to_4h"} <= adapted.settings.tensors.keys()
    assert (
        len({adapted.settings.linear_choice(0, name) for name in ("attention.query_key_value", "mlp.dense_h_to_4h")})
        == 1
    )
