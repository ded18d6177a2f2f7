"""llama.cpp finds the tokens that ``tokenizers`` finds in every kind of text, from the tokenizer that a file stores."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from gguf_artifacts import TOKENIZER_FILE
from tokenizers import Tokenizer

from pythia_quant.core.errors import QuantizationError
from pythia_quant.formats.gguf.loaded import Model
from pythia_quant.formats.gguf.vocabulary import read_vocabulary


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return import_module("gguf_tokenizer")


def like_pythias(folder: Path, **changes: Any) -> Path:
    """Write the demo's tokenizer with what Pythia's has beside it: NFC, another special token and runs of blanks."""
    fields = json.loads(TOKENIZER_FILE.read_text())
    fields["normalizer"] = {"type": "NFC"}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    size = len(fields["model"]["vocab"])
    added = [{"id": size, "content": "<|padding|>", **flags, **changes}]
    for count in range(24, 1, -1):
        added.append({"id": size + len(added), "content": " " * count, **flags, "normalized": True, "special": False})
    fields["added_tokens"] += added
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(fields))
    return path


def differing(lines: Any, path: Path, folder: Path, blocks: int) -> dict[str, list[str]]:
    tokenizer = Tokenizer.from_file(str(path))
    model: Model = lines.stored(path, folder)
    found = lines.compare(model, tokenizer, lines.lines(lines.special_tokens(tokenizer), blocks=blocks))
    assert sum(count for count, _ in found.values()) > 1000
    return {kind: others for kind, (_, others) in found.items() if others}


def test_the_demos_tokens(lines: Any, tmp_path: Path) -> None:
    assert differing(lines, TOKENIZER_FILE, tmp_path, blocks=150) == {}


def test_tokens_of_a_tokenizer_like_pythias(lines: Any, tmp_path: Path) -> None:
    """llama.cpp does not compose characters as NFC does; all else is the same."""
    others = differing(lines, like_pythias(tmp_path), tmp_path, blocks=150)
    assert [kind for kind in others if not kind.endswith("not in NFC")] == []
    assert len(others["combining marks, not in NFC"]) == 5


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_an_added_token_that_llama_cpp_would_find_elsewhere_is_refused(tmp_path: Path, flag: str) -> None:
    path = like_pythias(tmp_path, **{flag: True})
    with pytest.raises(QuantizationError, match=rf"padding.*{flag}.*llama\.cpp would tokenize otherwise"):
        read_vocabulary(path, 5000)


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
TEXT, BEGIN = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
ONE = {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}


def template(*single: object) -> dict[str, object]:
    pair = [TEXT, {"Sequence": {"id": "B", "type_id": 0}}]
    return {
        "type": "TemplateProcessing", "single": list(single), "pair": pair, "special_tokens": {"<|endoftext|>": ONE},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("step", "added"),
    [
        (None, 0),
        (BYTES, 0),
        (template(TEXT), 0),
        ({"type": "Sequence", "processors": [BYTES, template(TEXT)]}, 0),
        (template(BEGIN, TEXT), 1),
        (template(TEXT, BEGIN), 1),
        ({"type": "Sequence", "processors": [BYTES, template(BEGIN, TEXT)]}, 1),
        ({"type": "BertProcessing", "sep": ["<|endoftext|>", 0], "cls": ["<|endoftext|>", 0]}, 2),
        ({"type": "RobertaProcessing", "sep": ["<|endoftext|>", 0], "cls": ["<|endoftext|>", 0], "trim_offsets": True,
          "add_prefix_space": False}, 2),
    ],
)  # fmt: skip
def test_a_tokenizer_that_adds_tokens_to_a_text_is_refused(tmp_path: Path, step: Any, added: int) -> None:
    fields = json.loads(TOKENIZER_FILE.read_text()) | {"post_processor": step}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(fields))
    tokenizer = Tokenizer.from_file(str(path))  # what it really does, by the library
    more = len(tokenizer.encode("a text").ids) - len(tokenizer.encode("a text", add_special_tokens=False).ids)
    assert more == added
    if added:
        with pytest.raises(QuantizationError, match=r"post_processor that adds .*llama\.cpp would tokenize otherwise"):
            read_vocabulary(path, 5000)
    else:
        assert read_vocabulary(path, 5000).tokens
