import json
import random
from pathlib import Path

import pytest
from mutations import COUNT, NASTY, byte_mutations, json_mutations, refused_or_read
from tiny import TINY

from pythia_quant import suite
from pythia_quant.architecture import Architecture
from pythia_quant.config_file import parse_config, read_config
from pythia_quant.errors import PythiaQuantError, SourceError
from pythia_quant.passages import read_passages
from pythia_quant.steps import names_several, parse_revisions
from pythia_quant.weights import weight_file_names

INDEX = {"metadata": {"total_size": 10}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}


def read_all(path: Path) -> Architecture:
    """Read a config.json and compute what is computed of an architecture before any weight is read."""
    architecture = read_config(path)
    assert architecture.parameters > 0
    json.dumps(architecture.config())
    return architecture


def test_damaged_configs_are_read_or_refused(tmp_path: Path) -> None:
    counts = refused_or_read(read_all, tmp_path / "config.json", json_mutations(TINY.config(), 1000))
    assert counts["read"] > 100
    assert counts["refused"] > 100


def test_every_field_of_a_config_takes_any_value_or_refuses_it() -> None:
    for name in TINY.config():
        for value in NASTY:
            try:
                parse_config(TINY.config() | {name: value})
            except SourceError as error:
                assert len(str(error)) < 500  # noqa: PT017 - most values are refused, some are good


def test_damaged_indexes_are_read_or_refused(tmp_path: Path) -> None:
    counts = refused_or_read(weight_file_names, tmp_path / "index.json", json_mutations(INDEX, 1000))
    assert counts["read"] > 100
    assert counts["refused"] > 100


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
    counts = refused_or_read(read_passages, tmp_path / "lambada.jsonl", byte_mutations(content, 500))
    assert counts["read"] > 20
    assert counts["refused"] > 100


def test_any_text_is_a_list_of_revisions_or_refused() -> None:
    random_ = random.Random(0)
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
    for _ in range(COUNT or 1000):
        text = "".join(random_.choices(parts, k=random_.randrange(1, 8)))
        for known in (published, None):
            try:
                names_several(text)
                assert len(parse_revisions(text, known)) <= 10 * len(published)
            except PythiaQuantError as error:
                assert len(str(error)) < 1000  # noqa: PT017 - some texts are good
