import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from mutations import (
    COUNT,
    NASTY,
    as_json,
    byte_mutations,
    damaged,
    distortions,
    generator,
    json_mutations,
    outcomes,
    refused_or_read,
)
from pyarrow import parquet
from safetensors.torch import save
from tiny import TINY, random_weights

from pythia_quant.core.errors import PythiaQuantError, SourceError
from pythia_quant.formats.onnx.client_configs import write_configs
from pythia_quant.formats.solving.solve import costs
from pythia_quant.model import suite
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.config import parse_config, read_config, unknown_fields
from pythia_quant.model.generation_config import GENERATION_CONFIG, read_model, read_settings, settings_to_write
from pythia_quant.model.pickled import read_pickle
from pythia_quant.model.suite import names_several, parse_revisions
from pythia_quant.model.weights import WeightFiles, weight_file_names
from pythia_quant.texts.lambada import read_passages
from pythia_quant.texts.load import read_text

INDEX = {"metadata": {"total_size": 10}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}


RICH = TINY.config() | {
    "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "eos_token_id": [0, 2], "pad_token_id": 1, "head_dim": 32,
    "pruned_heads": {}, "hidden_dropout": 0.0, "id2label": {"0": "x"}, "_attn_implementation_autoset": True,
}  # fmt: skip
"""A config.json with what fine-tunes and other versions add."""
GENERATION = {
    "_from_model_config": True, "bos_token_id": 0, "eos_token_id": [0, 2], "pad_token_id": 1, "do_sample": True,
    "temperature": 0.7, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1, "transformers_version": "4.50.0",
}  # fmt: skip


def use(fields: Any) -> None:
    """Compute what is computed of an architecture before any weight is read."""
    architecture = parse_config(fields)
    assert architecture.parameters > 0
    assert costs(architecture, 4096) > (0, 0)
    json.dumps(architecture.config(), allow_nan=False)
    unknown_fields(fields)


def test_damaged_configs_are_read_or_refused(tmp_path: Path) -> None:
    objects = (fields for fields in distortions(RICH, COUNT) if isinstance(fields, dict))
    counts = outcomes(use, objects)
    assert counts["read"] > COUNT // 20
    assert counts["refused"] > COUNT // 4
    assert refused_or_read(read_config, tmp_path / "config.json", json_mutations(RICH, COUNT // 5))["read"] > 0


def test_damaged_generation_configs_are_read_or_refused(tmp_path: Path) -> None:
    """And what is read can be written into an artifact, for onnxruntime-genai too."""
    (tmp_path / "config.json").write_bytes(as_json(TINY.config()))
    artifact = tmp_path / "artifact"
    artifact.mkdir()

    def generate(_: Path) -> tuple[Architecture, dict[str, Any]]:
        architecture = read_model(tmp_path)
        return architecture, settings_to_write(read_settings(tmp_path), architecture)

    def write(path: Path) -> None:
        architecture, settings = generate(path)
        write_configs(artifact, architecture, artifact / "model.onnx", settings)

    path = tmp_path / GENERATION_CONFIG
    counts = refused_or_read(generate, path, json_mutations(GENERATION))
    assert min(counts["read"], counts["refused"]) > COUNT // 5
    assert refused_or_read(write, path, json_mutations(GENERATION, COUNT // 50, seed=1))["read"] > 0


def test_every_field_of_a_config_takes_any_value_or_refuses_it() -> None:
    for name in TINY.config():
        for value in NASTY:
            try:
                parse_config(TINY.config() | {name: value})
            except SourceError as error:
                assert len(str(error)) < 500  # noqa: PT017 - most values are refused, some are good


def test_damaged_indexes_are_read_or_refused(tmp_path: Path) -> None:
    counts = refused_or_read(weight_file_names, tmp_path / "index.json", json_mutations(INDEX))
    assert min(counts["read"], counts["refused"]) > COUNT // 10


@pytest.mark.parametrize(
    "content",
    [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../m.bin"}},
     {"weight_map": {"a": "/m.bin"}}, {"weight_map": {"a": "a\0.bin"}}, {"weight_map": {"a": "0" * 5000}},
     {"weight_map": {"a": "config.json"}}, {"weight_map": {"a": "-m.bin"}}, []],
)  # fmt: skip
def test_an_index_names_weight_files_beside_it_and_nothing_else(tmp_path: Path, content: object) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SourceError) as refusal:
        weight_file_names(path)
    assert len(str(refusal.value)) < 400


def test_damaged_passages_are_read_or_refused(tmp_path: Path) -> None:
    content = b'{"text": "one two three"}\n{"text": "four five"}\n\n{"text": "six seven", "x": [1]}\n'
    counts = refused_or_read(read_passages, tmp_path / "lambada.jsonl", byte_mutations(content))
    assert min(counts["read"], counts["refused"]) > COUNT // 25


def test_damaged_json_lines_are_read_or_refused(tmp_path: Path) -> None:
    content = b'{"text": "one two three"}\n{"text": null}\n\n{"text": "six \\u00e9", "x": [1]}\n'
    counts = refused_or_read(read_text, tmp_path / "rows.jsonl", byte_mutations(content))
    assert min(counts["read"], counts["refused"]) > COUNT // 25


def test_damaged_parquet_is_read_or_refused(tmp_path: Path) -> None:
    """Fewer: what is damaged in the middle of a file costs the native reader more."""
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"text": ["one two three", None, "four é"]}), buffer, compression="NONE")
    counts = refused_or_read(read_text, tmp_path / "rows.parquet", byte_mutations(buffer.getvalue(), COUNT // 5))
    assert counts["refused"] > COUNT // 10


ONE_LAYER = replace(TINY, layers=1, width=8, heads=1, mlp_width=16, vocabulary=16, context=8, rotary_size=2)


def read_weights(path: Path) -> None:
    weights = WeightFiles([path], ONE_LAYER)
    for name in ONE_LAYER.tensor_shapes():
        weights.read(name)


def damaged_safetensors(content: bytes, count: int) -> Iterator[bytes]:
    """Yield mutations: most of the header's data, some of its bytes and length."""
    random_, size = generator(2), int.from_bytes(content[:8], "little")
    header, tensors = content[8 : 8 + size], content[8 + size :]
    for number, changed in enumerate(distortions(json.loads(header), count)):
        if number % 10 == 0:
            yield damaged(content, random_)
        elif number % 10 == 1:
            length = random_.choice((0, 1, size - 1, size + 1, len(content), 2**31, 2**63, 2**64 - 1))
            yield length.to_bytes(8, "little") + content[8:]
        else:
            other = as_json(changed) if number % 10 > 2 else damaged(header, random_)
            yield len(other).to_bytes(8, "little") + other + tensors


def test_damaged_safetensors_are_read_or_refused(tmp_path: Path) -> None:
    content = save(random_weights(ONE_LAYER))
    counts = refused_or_read(read_weights, tmp_path / "model.safetensors", damaged_safetensors(content, COUNT))
    assert counts["read"] > 0  # few: a checkpoint is what config.json says, to the last number
    assert counts["refused"] > COUNT // 2


def damaged_pickle(content: bytes, count: int) -> Iterator[bytes]:
    """Yield torch's zip archives in which the pickle is damaged and all else is whole."""
    random_ = generator(3)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {item.filename: archive.read(item) for item in archive.infolist()}
    for _ in range(count):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, damaged(part, random_) if name.endswith("data.pkl") else part)
        yield buffer.getvalue()


def test_damaged_pickles_are_read_or_refused(tmp_path: Path) -> None:
    """Fewer: torch reads one, in Python, as long as fifty files of JSON."""
    path, zipped, old = tmp_path / "pytorch_model.bin", io.BytesIO(), io.BytesIO()
    tensors = {name: tensor for name, tensor in random_weights(ONE_LAYER).items() if tensor.ndim == 1}
    torch.save(tensors, zipped)
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    count = COUNT // 30
    mutations = (
        byte_mutations(zipped.getvalue(), count), damaged_pickle(zipped.getvalue(), count),
        byte_mutations(old.getvalue(), count),
    )  # fmt: skip
    for contents in mutations:
        assert refused_or_read(read_pickle, path, contents)["refused"] > count // 4


def test_any_text_is_a_list_of_revisions_or_refused() -> None:
    random_ = generator(0)
    parts = (
        "step",
        "1",
        "1000",
        "..",
        "/",
        "10",
        ",",
        "all",
        "9" * 5000,
        "-",
        " ",
        "\0",
        "\x1b",
        "main",
        "٣",
        "\n",
        "",
    )
    published = suite.members()[0].steps
    for _ in range(COUNT):
        text = "".join(random_.choices(parts, k=random_.randrange(1, 8)))
        for known in (published, None):
            try:
                names_several(text)
                assert len(parse_revisions(text, known)) <= 10 * len(published)
            except PythiaQuantError as error:
                assert len(str(error)) < 1000  # noqa: PT017 - some texts are good
