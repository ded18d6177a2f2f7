"""Embeddings and head in 4 bits: solved without text, with frequent tokens in 8 bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx_models import PROBE, SHAPE, convert, source
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.formats.job import Job
from pythia_quant.formats.onnx.reader import read
from pythia_quant.formats.onnx.runtime import open_runtime
from pythia_quant.formats.onnx.token_tables import pieces, quantize
from pythia_quant.formats.onnx.writer import write
from pythia_quant.model.architecture import EMBEDDING, HEAD
from pythia_quant.model.forward import final_hidden_states, head_weight, read_layer
from pythia_quant.quantizers import blocks, gptq, token_rows
from pythia_quant.quantizers.grid_kind import IntegerKind
from pythia_quant.recipe.onnx_variant import LAST_TOKENS, OnnxSettings

LARGE = replace(SHAPE, vocabulary=900)
FREQUENT = 100
EVERYWHERE = torch.tensor([[0, 5, 99, 100, 101, 387, 388, 500, 899, 3, 380, 700]] * 2)
"""Tokens of the beginning, the middle and the end, and of both sides of the borders at 100 and 388."""


def settings(**keys: Any) -> OnnxSettings:
    return OnnxSettings.model_validate({"format": "onnx", **keys})


@pytest.mark.parametrize("block_size", [32, 64])
@pytest.mark.parametrize(
    "tables", [{"embeddings": "int4"}, {"head": "int4"}, {"embeddings": "int4", "head": "int4"}], ids=str
)
def test_written_read_and_run_agree(tmp_path: Path, tables: dict[str, str], block_size: int) -> None:
    checkpoint = source(tmp_path / "source", LARGE)
    folder = tmp_path / "artifact"
    written = convert(checkpoint, folder, frequent_tokens=FREQUENT, block_size=block_size, **tables)
    reader = read(folder)
    torch.testing.assert_close(
        final_hidden_states(reader, PROBE) @ head_weight(reader).T, written.logits, rtol=0, atol=1e-5
    )
    expected = final_hidden_states(reader, EVERYWHERE) @ head_weight(reader).T
    run = open_runtime(folder, threads=1).logits(EVERYWHERE)
    torch.testing.assert_close(run, expected, rtol=0, atol=1e-4)


def test_frequent_and_last_tokens_are_in_8_bits_and_others_in_4(tmp_path: Path) -> None:
    checkpoint = source(tmp_path / "source", LARGE)
    convert(checkpoint, tmp_path / "artifact", frequent_tokens=FREQUENT, embeddings="int4", head="int4")
    reader = read(tmp_path / "artifact")
    for name in (EMBEDDING, HEAD):
        found, original = reader.read(name), checkpoint.read(name).float()
        frequent = torch.cat([torch.arange(FREQUENT), torch.arange(900 - LAST_TOKENS, 900)])
        assert torch.equal(found[frequent], blocks.quantize(original[frequent], 64).dequantize())
        values = {len(row.unique()) for row in found[FREQUENT : 900 - LAST_TOKENS]}
        assert max(values) <= 16  # of 64 numbers in a row, which is one block


def test_a_small_vocabulary_is_in_8_bits_as_a_whole(tmp_path: Path) -> None:
    checkpoint = source(tmp_path / "source")
    convert(checkpoint, tmp_path / "a", frequent_tokens=1, embeddings="int4", head="int4")
    convert(checkpoint, tmp_path / "b")
    for name in (EMBEDDING, HEAD):
        assert torch.equal(read(tmp_path / "a").read(name), read(tmp_path / "b").read(name))


def test_rows_of_a_table_are_those_of_the_whole_matrix() -> None:
    """A token's row, wherever it is stored, is the one that all rows in order have."""
    chosen = settings(embeddings="int4", frequent_tokens=FREQUENT)
    matrix = torch.randn(900, 64, generator=torch.Generator().manual_seed(0))
    table = quantize(matrix, pieces(chosen, chosen.embeddings_choice(), 900), torch.eye(64), "it")
    whole = table.rows(torch.arange(900))
    ids = EVERYWHERE.flatten()
    assert torch.equal(table.rows(ids), whole[ids])
    assert torch.equal(whole[:FREQUENT], blocks.quantize(matrix[:FREQUENT], 64).dequantize())
    assert (whole - matrix).abs().max() < 0.7  # a step and a half


def test_solved_embeddings_change_the_first_layer_less_than_rounded_ones(tmp_path: Path) -> None:
    """Property: the products that read a row change less, in total, than with every weight at its nearest value."""
    checkpoint = source(tmp_path / "source", LARGE)
    layer, table = read_layer(checkpoint, 0), checkpoint.read(EMBEDDING).float()
    hessian = token_rows.effect_of_embeddings(layer)

    def change(stored: Tensor) -> float:
        inner = {"attention.query_key_value": "input_layernorm", "mlp.dense_h_to_4h": "post_attention_layernorm"}
        error = stored - table
        products = [(error * layer[f"{norm}.weight"]) @ layer[f"{name}.weight"].T for name, norm in inner.items()]
        return float(sum(product.square().sum() for product in products))

    kind = IntegerKind(4, 32, symmetric=True)
    solved = token_rows.solve(table, hessian, kind, "embeddings").dequantize()
    assert change(solved) < 0.9 * change(blocks.quantize(table, 32, 4).dequantize())
    error = solved - table
    assert change(solved) == pytest.approx(float(((error @ hessian) * error).sum()), rel=1e-4)


def test_rows_are_solved_apart_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(40, 64, generator=generator), torch.randn(300, 64, generator=generator)
    kind, hessian = IntegerKind(4, 32, symmetric=True), inputs.T @ inputs
    expected = gptq.quantize(weight, hessian, token_rows.OPTIONS, kinds=(kind,)).dequantize()
    monkeypatch.setattr(token_rows, "ROWS_AT_ONCE", 16)
    assert torch.equal(token_rows.solve(weight, hessian, kind, "head").dequantize(), expected)


def test_what_cannot_be_solved_is_named() -> None:
    weight = torch.full((2, 32), 1e8)
    with pytest.raises(QuantizationError, match="scale") as error:
        token_rows.solve(weight, torch.eye(32), IntegerKind(4, 32, symmetric=True), "head")
    assert error.value.where == "head"


def test_the_head_is_solved_for_calibration_windows(tmp_path: Path) -> None:
    """Property: of final hidden states of such windows, it makes better logits than a head for random tokens does."""
    checkpoint = source(tmp_path / "source", LARGE)
    windows = torch.randint(20, 40, (16, 64), generator=torch.Generator().manual_seed(1))  # few different tokens
    chosen, errors = settings(head="int4", embeddings="fp32", weights="fp32", activations="fp32"), []
    assert chosen.reads_calibration
    assert not chosen.calibrates
    hidden = final_hidden_states(checkpoint, windows)
    for name, calibration in (("text", windows), ("none", windows[:0])):
        (tmp_path / name).mkdir()
        write(Job(checkpoint, chosen, tmp_path / name, PROBE, calibration))
        errors.append((hidden @ (read(tmp_path / name).read(HEAD) - head_weight(checkpoint)).T).square().mean())
    assert errors[0] < 0.8 * errors[1]
