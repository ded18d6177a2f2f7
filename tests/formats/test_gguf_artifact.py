"""What the writer stores, other programs read, our reader returns, and llama.cpp computes is one model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import gguf
import gptq_models
import numpy as np
import pytest
import torch
from gguf_artifacts import CALIBRATION, PROBE, SHAPE, convert, source

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.gguf.names import find_file, interleave, tensor_name
from pythia_quant.formats.gguf.reader import read, streamed_bytes
from pythia_quant.formats.gguf.runtime import open_runtime
from pythia_quant.formats.gptq.reader import read as read_gptq
from pythia_quant.model.architecture import EMBEDDING, HEAD, LINEARS, layer_name
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.model.weights import WeightFiles
from pythia_quant.recipe.gguf_variant import GgufType


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightFiles:
    return source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def artifact(weights: WeightFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    convert(weights, folder, quantizer="nearest")
    return folder


TYPES: tuple[GgufType, ...] = get_args(GgufType)


@pytest.mark.parametrize("kind", TYPES)
def test_written_read_and_run_agree(weights: WeightFiles, tmp_path: Path, kind: GgufType) -> None:
    """llama.cpp rounds activations to the partner of the weights' type: int8 blocks, fp16 or bf16."""
    written = convert(weights, tmp_path, quantizer="nearest", weights=kind, embeddings=kind, head=kind)
    reader = read(tmp_path)
    from_disk = final_hidden_states(reader, PROBE) @ head_weight(reader).T
    torch.testing.assert_close(from_disk, written.logits, rtol=0, atol=1e-5)
    run = open_runtime(tmp_path, threads=1).logits(PROBE)
    error = (run - written.logits).norm() / written.logits.norm()
    assert error < {"f32": 0.002, "f16": 0.002, "bf16": 0.01}.get(kind, 0.02)


def test_the_package_of_llama_cpp_reads_the_same_numbers(artifact: Path) -> None:
    ours, theirs = read(artifact), gguf.GGUFReader(find_file(artifact))
    stored = {tensor.name: tensor for tensor in theirs.tensors}
    assert len(stored) == len(SHAPE.tensor_shapes())
    for name in SHAPE.tensor_shapes():
        tensor = stored[tensor_name(name)]
        values = torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))
        values = interleave(values, SHAPE) if "query_key_value" in name else values
        assert torch.equal(ours.read(name), values), name
    kinds = {tensor.name: tensor.tensor_type.name for tensor in theirs.tensors}
    assert (kinds["token_embd.weight"], kinds["blk.1.ffn_down.weight"], kinds["output.weight"]) == (
        "Q8_0", "Q4_0", "Q8_0",
    )  # fmt: skip
    assert theirs.get_field("general.file_type").contents() == gguf.LlamaFileType.MOSTLY_Q4_0  # type: ignore[union-attr]


def test_a_tensor_has_a_type_of_its_own_and_the_next_best_where_blocks_of_256_do_not_fit(
    weights: WeightFiles, tmp_path: Path
) -> None:
    tensors = {"layers.1.attention.dense": "q8_0", "mlp.dense_4h_to_h": "q5_k", "mlp.dense_h_to_4h": "q4_k"}
    convert(weights, tmp_path, quantizer="nearest", tensors=tensors, head="f16")
    places = read(tmp_path).places
    assert places[HEAD].kind == "f16"
    assert [places[f"{layer_name(index)}.attention.dense.weight"].kind for index in range(2)] == ["q4_0", "q8_0"]
    assert places[f"{layer_name(0)}.mlp.dense_4h_to_h.weight"].kind == "q5_k"  # 256 inputs
    assert places[f"{layer_name(0)}.mlp.dense_h_to_4h.weight"].kind == "q5_0"  # 64 inputs


@pytest.mark.parametrize(("bits", "kind"), [(4, "q4_0"), (8, "q8_0")])
def test_the_integers_of_gptq_are_stored_bit_for_bit(
    weights: WeightFiles, tmp_path: Path, bits: int, kind: GgufType
) -> None:
    gptq_models.convert(weights, tmp_path / "gptq", CALIBRATION, bits=bits, group_size=64, sweeps=0)
    codes = read_gptq(tmp_path / "gptq")
    convert(weights, tmp_path / "gguf", codes, weights=kind, codes="gptq")
    stored = read(tmp_path / "gguf")
    for name in (name for name in SHAPE.tensor_shapes() if name not in (EMBEDDING, HEAD)):
        assert torch.equal(stored.read(name), codes.read(name)), name


@pytest.mark.parametrize("settings", [{"sweeps": 1}, {"fisher": True, "tensors": {"attention.dense": "q4_1"}}], ids=str)
def test_layers_and_head_solved_for_the_type_beat_rounding(
    weights: WeightFiles, tmp_path: Path, settings: dict[str, Any]
) -> None:
    written = convert(weights, tmp_path / "solved", head="q4_0", embeddings="f32", **settings)
    rounded = convert(weights, tmp_path / "rounded", head="q4_0", embeddings="f32", quantizer="nearest")
    reader = read(tmp_path / "solved")
    torch.testing.assert_close(
        final_hidden_states(reader, PROBE) @ head_weight(reader).T, written.logits, atol=1e-4, rtol=0
    )
    exact = final_hidden_states(weights, PROBE) @ head_weight(weights).T
    assert (written.logits - exact).norm() < 0.8 * (rounded.logits - exact).norm()
    notes = written.notes["linears"]
    assert isinstance(notes, dict)
    assert set(notes) == {f"{layer_name(index)}.{linear}" for index in range(2) for linear in LINEARS} | {"embed_out"}


def test_only_the_embeddings_are_not_streamed(artifact: Path) -> None:
    places = read(artifact).places
    assert streamed_bytes(artifact) == sum(place.size for name, place in places.items() if name != EMBEDDING)


def replace_in(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) >= 1
    path.write_bytes(content.replace(old, new, 1))


DOCTORED: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-64]),
    "an empty file": lambda path: path.write_bytes(b""),
    "another context": lambda path: replace_in(path, (64).to_bytes(4, "little"), (32).to_bytes(4, "little")),
    "another tokenizer": lambda path: replace_in(path, b"gpt-2", b"gpt-3"),
    "another name of a tensor": lambda path: replace_in(path, b"blk.0.attn_norm.bias", b"blk.9.attn_norm.bias"),
    "BOS before every text": lambda path: replace_in(path, b"add_bos_token\x07\0\0\0\0", b"add_bos_token\x07\0\0\0\1"),
    "another program": lambda path: replace_in(path, b"gptneox", b"mistral"),
}


@pytest.mark.parametrize("fault", DOCTORED)
def test_a_doctored_file_is_refused_before_llama_cpp_sees_it(artifact: Path, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(artifact, folder)
    DOCTORED[fault](find_file(folder))
    with pytest.raises(ArtifactError):
        open_runtime(folder, threads=1)


def test_a_weight_that_is_not_finite_is_refused(artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(artifact, folder)
    place = read(folder).places[HEAD]
    with find_file(folder).open("r+b") as file:
        file.seek(place.offset)
        file.write(b"\xff\x7f")
    with pytest.raises(ArtifactError, match="not finite"):
        read(folder).read(HEAD)
    with pytest.raises(ArtifactError, match=r"llama\.cpp refuses it"):
        open_runtime(folder, threads=1)
