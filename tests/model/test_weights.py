import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY, random_weights, write_checkpoint

from pythia_quant.core.errors import SourceError
from pythia_quant.model.architecture import EMBEDDING, HEAD
from pythia_quant.model.weights import WeightFiles, all_finite, weight_file_names

ATTENTION_BIASES = ("attention.dense.bias", "attention.query_key_value.bias")


def write(folder: Path, **changed: torch.Tensor | None) -> Path:
    weights = random_weights(TINY) | {name.replace("__", "."): t for name, t in changed.items() if t is not None}
    for name, tensor in changed.items():
        if tensor is None:
            del weights[name.replace("__", ".")]
    path = folder / "model.safetensors"
    save_file(weights, path)
    return path


def test_safetensors_and_pickles_give_the_same_tensors_and_buffers_are_ignored(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    buffers = {
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 32, 32, dtype=torch.bool),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(4),
    }
    torch.save(weights | buffers, tmp_path / "pytorch_model.bin")
    pickled = WeightFiles([tmp_path / "pytorch_model.bin"], TINY)
    safe = WeightFiles([write(tmp_path)], TINY)
    for name, tensor in weights.items():
        assert torch.equal(pickled.read(name), tensor)
        assert torch.equal(safe.read(name), tensor)


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    weights = list(random_weights(TINY).items())
    parts = {"a.safetensors": dict(weights[:5]), "b.safetensors": dict(weights[5:])}
    for file, part in parts.items():
        save_file(part, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}}))
    assert weight_file_names(index) == ["a.safetensors", "b.safetensors"]
    reader = WeightFiles([tmp_path / name for name in parts], TINY)
    assert torch.equal(reader.read(weights[7][0]), weights[7][1])


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"weight_map": {"x": "../x"}}', '{"weight_map": {"x": "/etc/passwd"}}', "{}"]
)
def test_an_index_that_is_damaged_or_points_elsewhere_is_refused(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(SourceError, match="index"):
        weight_file_names(index)


def test_a_missing_a_misshapen_and_an_unknown_tensor_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"embed_out\.weight is missing"):
        WeightFiles([write(tmp_path, embed_out__weight=None)], TINY)
    with pytest.raises(SourceError, match=r"\[3, 3\].*\[272, 64\]"):
        WeightFiles([write(tmp_path, embed_out__weight=torch.ones(3, 3))], TINY)
    with pytest.raises(SourceError, match=r"v_head\.bias is none of GPT-NeoX's\n.*save_pretrained"):
        WeightFiles([write(tmp_path, v_head__bias=torch.ones(1))], TINY)
    with pytest.raises(SourceError, match=r"embed_out\.weight twice: as embed_out\.weight and lm_head\.weight"):
        WeightFiles([write(tmp_path, lm_head__weight=torch.ones(272, 64))], TINY)


def test_weights_of_another_dtype_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"final_layer_norm\.bias is I8"):
        WeightFiles([write(tmp_path, gpt_neox__final_layer_norm__bias=torch.ones(64, dtype=torch.int8))], TINY)


def test_values_that_are_not_finite_are_refused_when_read(tmp_path: Path) -> None:
    head = random_weights(TINY)["embed_out.weight"]
    head[3, 5], head[4, 6] = torch.nan, torch.inf
    reader = WeightFiles([write(tmp_path, embed_out__weight=head)], TINY)
    reader.read("gpt_neox.embed_in.weight")
    with pytest.raises(SourceError, match=r"2 of 17,408 values of embed_out\.weight are not finite"):
        reader.read("embed_out.weight")


@pytest.mark.parametrize("kept", [0, 4, 100, 50_000])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, kept: int) -> None:
    path = tmp_path / name
    if name.endswith("bin"):
        torch.save(random_weights(TINY), path)
    else:
        write(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SourceError, match=name):
        WeightFiles([path], TINY)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "pytorch_model.bin"
    torch.save({"embed_out.weight": Payload()}, path)
    with pytest.raises(SourceError, match=r"pytorch_model\.bin"):
        WeightFiles([path], TINY)
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(SourceError, match=r"pytorch_model\.bin"):
        WeightFiles([path], TINY)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_written_by_the_tests_is_complete(tmp_path: Path) -> None:
    WeightFiles([write_checkpoint(tmp_path) / "model.safetensors"], TINY)


PREFIXES = [
    "_orig_mod.", "module.", "base_model.model.", "module._orig_mod.", "base_model.model._orig_mod.", "student.",
    "pretrained_model.module.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_in_names_are_left_out(tmp_path: Path, prefix: str) -> None:
    weights = random_weights(TINY)
    save_file({prefix + name: tensor for name, tensor in weights.items()}, tmp_path / "model.safetensors")
    reader = WeightFiles([tmp_path / "model.safetensors"], TINY)
    assert all(torch.equal(reader.read(name), tensor) for name, tensor in weights.items())
    assert not reader.plain


def test_names_that_are_not_understood_are_shown(tmp_path: Path) -> None:
    weights = {name.replace("gpt_neox.", "net."): tensor for name, tensor in random_weights(TINY).items()}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(SourceError, match=r"embed_in\.weight is missing\n.*others, such as 'net\."):
        WeightFiles([tmp_path / "model.safetensors"], TINY)
    both = {f"{role}.embed_out.weight": torch.ones(272, 64) for role in ("student", "teacher")}
    save_file(both, tmp_path / "model.safetensors")
    with pytest.raises(SourceError, match=r"twice: as student\..* and teacher\."):
        WeightFiles([tmp_path / "model.safetensors"], TINY)


def test_lm_head_names_without_gpt_neox_and_buffers_at_the_top_are_understood(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    renamed = {name.removeprefix("gpt_neox.").replace("embed_out", "lm_head"): part for name, part in weights.items()}
    buffers = {
        "gpt_neox.rotary_emb.inv_freq": torch.ones(4),
        "layers.0.attention.bias": torch.ones(1, dtype=torch.bool),
    }
    save_file(renamed | buffers, tmp_path / "model.safetensors")
    reader = WeightFiles([tmp_path / "model.safetensors"], TINY)
    assert all(torch.equal(reader.read(name), tensor) for name, tensor in weights.items())
    assert reader.plain


def test_fp64_is_read_as_fp32_and_overflow_refused(tmp_path: Path) -> None:
    weights = {name: tensor.double() for name, tensor in random_weights(TINY).items()}
    weights["gpt_neox.final_layer_norm.bias"][0] = 1e300
    save_file(weights, tmp_path / "model.safetensors")
    reader = WeightFiles([tmp_path / "model.safetensors"], TINY)
    assert torch.equal(reader.read("embed_out.weight"), weights["embed_out.weight"].float())
    with pytest.raises(SourceError, match="1 of 64 values"):
        reader.read("gpt_neox.final_layer_norm.bias")


def pickled(tmp_path: Path, content: object, *, zipped: bool = True) -> WeightFiles:
    path = Path(mkdtemp(dir=tmp_path)) / "pytorch_model.bin"  # each of its own: the files are mapped
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return WeightFiles([path], TINY)


def test_every_form_of_pickled_state_dict_gives_the_tensors(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    forms = [
        pickled(tmp_path, weights, zipped=False),
        pickled(tmp_path, {"state_dict": weights, "epoch": 3}),
        pickled(tmp_path, {"model": weights, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}),
        pickled(tmp_path, weights | {"step": 3}),
        pickled(tmp_path, weights | {"step": torch.tensor(3)}),
        WeightFiles([write(tmp_path, step=torch.tensor(3), loss=torch.tensor(2.5))], TINY),
    ]
    for reader in forms:
        assert all(torch.equal(reader.read(name), tensor) for name, tensor in weights.items())
    assert [reader.plain for reader in forms] == [True, False, False, False, True, True]


def test_pickles_without_one_set_of_tensors_say_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"several sets of tensors \(ema, model\)"):
        pickled(tmp_path, {"model": random_weights(TINY), "ema": random_weights(TINY)})
    with pytest.raises(SourceError, match="no tensors by their names"):
        pickled(tmp_path, {"step": 3})
    with pytest.raises(SourceError, match="holds a list"):
        pickled(tmp_path, [torch.ones(1)])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("base_model.model.gpt_neox.layers.0.mlp.dense_h_to_4h.lora_A.weight", "adapter.*merge it first"),
        ("gpt_neox.layers.0.mlp.dense_h_to_4h.qweight", "quantized already"),
        ("gpt_neox.layers.0.mlp.dense_h_to_4h.weight.absmax", "quantized already"),
    ],
)
def test_adapters_and_quantized_checkpoints_are_named(tmp_path: Path, name: str, message: str) -> None:
    save_file({name: torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(SourceError, match=f"(?s){message}"):
        WeightFiles([tmp_path / "model.safetensors"], TINY)


def test_what_is_tied_is_read_from_the_other_and_missing_attention_biases_are_0(tmp_path: Path) -> None:
    shape = replace(TINY, tied=True, attention_biases=False)
    weights = {name: part for name, part in random_weights(TINY).items() if not name.endswith(ATTENTION_BIASES)}
    for missing, present in ((HEAD, EMBEDDING), (EMBEDDING, HEAD)):
        save_file({name: part for name, part in weights.items() if name != missing}, tmp_path / "model.safetensors")
        reader = WeightFiles([tmp_path / "model.safetensors"], shape)
        assert torch.equal(reader.read(missing), weights[present])
        assert reader.read("gpt_neox.layers.0.attention.dense.bias").equal(torch.zeros(64))
    stored = weights | {f"gpt_neox.layers.0.{name}": torch.ones(64) for name in ATTENTION_BIASES[:1]}
    save_file(stored, tmp_path / "model.safetensors")  # as in transformers: of both matrices, what is there is used
    assert (
        WeightFiles([tmp_path / "model.safetensors"], shape).read("gpt_neox.layers.0.attention.dense.bias").sum() == 0
    )
    assert torch.equal(WeightFiles([tmp_path / "model.safetensors"], shape).read(HEAD), weights[HEAD])


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lambda: torch.zeros(1).expand(272, 64), "made of fewer values than it has"),
        (lambda: torch.empty(272, 64, device="meta"), "without values"),
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "nested"),
        (lambda: torch.quantize_per_tensor(torch.zeros(272, 64), 0.1, 0, torch.qint8), "qint8"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch calls nested tensors a prototype
def test_pickled_tensors_whose_values_are_not_in_the_file_are_refused(
    tmp_path: Path, tensor: Callable[[], torch.Tensor], message: str
) -> None:
    """A few bytes may stand for terabytes of such."""
    path = tmp_path / "pytorch_model.bin"
    torch.save(random_weights(TINY) | {EMBEDDING: tensor()}, path)
    with pytest.raises(SourceError, match=f"{EMBEDDING} is .*{message}"):
        WeightFiles([path], TINY)
    torch.save(random_weights(TINY) | {"gpt_neox.layers.0.attention.bias": tensor()}, path)
    WeightFiles([path], TINY)  # a buffer, which is not read


def test_a_packed_pickle_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save(random_weights(TINY), tmp_path / "plain")
    with ZipFile(tmp_path / "plain") as plain, ZipFile(tmp_path / "pytorch_model.bin", "w", ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(SourceError, match="is packed, as torch never writes it"):
        WeightFiles([tmp_path / "pytorch_model.bin"], TINY)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_value_that_is_not_finite_is_seen_wherever_it_is(dtype: torch.dtype) -> None:
    values = torch.randn(7, 33, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert all_finite(values)
    assert all_finite(values[:0])
    assert all_finite(torch.full((3,), torch.finfo(dtype).max, dtype=dtype))
    for bad in (torch.nan, torch.inf, -torch.inf):
        for place in (0, 100, 230):
            damaged = values.clone()
            damaged.view(-1)[place] = bad
            assert not all_finite(damaged)
            assert not all_finite(damaged.t())
