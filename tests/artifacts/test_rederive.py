"""The weights of an artifact beside those that its recipe makes: what is said of each tensor that is not the same."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import TINY, random_weights, write_checkpoint

from pythia_quant.artifacts.rederive import Derivation, compare_weights, describe
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.source import open_weights


@pytest.mark.parametrize(
    ("there", "part", "what"),
    [
        (replace(TINY, layers=3), "layers.2.", "is not of the source"),
        (replace(TINY, layers=1), "layers.1.", "is missing"),
        (replace(TINY, mlp_width=128), "dense_h_to_4h.weight", "has the shape 128 × 64, not 256 × 64"),
        (replace(TINY, mlp_width=128), "dense_h_to_4h.bias", "has the shape 128, not 256"),
    ],
)
def test_tensors_of_one_alone_or_of_other_shapes_are_named(
    tmp_path: Path, there: Architecture, part: str, what: str
) -> None:
    weights = (write_checkpoint(tmp_path / str(shape.layers * shape.mlp_width), shape) for shape in (there, TINY))
    tensors, unlike = compare_weights(*map(open_weights, weights))
    every = there.tensor_shapes() | TINY.tensor_shapes()
    assert {name for name, said in unlike.items() if said == what} == {name for name in every if part in name}
    assert not tensors.keys() & unlike.keys()
    assert what in describe(Derivation(1, ["model.safetensors"], tensors, unlike, [])).partition(" and ")[0]


def test_the_largest_difference_comes_first(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    here = open_weights(write_checkpoint(tmp_path / "here", TINY, weights))
    assert compare_weights(here, here) == ({}, {})
    weights["embed_out.weight"] *= 1.5
    weights["gpt_neox.final_layer_norm.bias"] *= 2
    there = open_weights(write_checkpoint(tmp_path / "there", TINY, weights))
    said = describe(Derivation(1, ["model.safetensors"], *compare_weights(there, here), []))
    first, second = (
        "gpt_neox.final_layer_norm.bias differs by 1 of its norm",
        "embed_out.weight differs by 0.5 of its norm",
    )
    assert f"of the tensors, {first}, {second}" in said
