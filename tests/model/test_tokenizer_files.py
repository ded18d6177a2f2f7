"""A tokenizer's files as they may be damaged: read, or refused in one message."""

import json
from pathlib import Path
from typing import Any

import pytest
from mutations import COUNT, json_mutations, refused_or_read
from tiny import TINY, byte_tokenizer
from tokenizers import Tokenizer

from pythia_quant.core.errors import SourceError
from pythia_quant.core.progress import SILENT
from pythia_quant.model.architecture import SpecialTokens
from pythia_quant.model.tokenizer import (
    SETTINGS,
    TOKENIZER,
    TOKENS_MAP,
    check_belongs,
    copy_without_limits,
    open_tokenizer,
    tokenize,
)

END = "<|endoftext|>"
SETTINGS_FIELDS = {
    "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": {"content": END, "lstrip": False},
    "bos_token": None, "model_max_length": 10**30, "chat_template": "{{ x }}",
    "added_tokens_decoder": {"0": {"content": END, "special": True}},
}  # fmt: skip
TOKENS_FIELDS = {"eos_token": {"content": END}, "pad_token": END, "additional_special_tokens": ["a"]}


def small() -> dict[str, Any]:
    """Return a tokenizer.json of few tokens, so that most mutations meet something else, with all that may be in it."""
    fields: dict[str, Any] = json.loads(byte_tokenizer().to_str())
    vocabulary = fields["model"]["vocab"]
    fields["model"]["vocab"] = {token: vocabulary[token] for token in (END, "a", "b", "Ġ")}
    padding = fields["added_tokens"][0] | {"id": TINY.vocabulary, "content": "<pad>"}
    return fields | {
        "added_tokens": [*fields["added_tokens"], padding],
        "truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
        "normalizer": {"type": "NFC"},
    }


def test_damaged_tokenizers_are_read_or_refused(tmp_path: Path) -> None:
    def use(path: Path) -> None:
        tokenizer = open_tokenizer(path, TINY.vocabulary)
        tokenizer.decode(tokenize(tokenizer, "a b, é\u3042").ids)
        check_belongs(tokenizer, tmp_path, TINY.tokens, SILENT)
        path.with_name("copy.json").unlink(missing_ok=True)
        copy_without_limits(path, path.with_name("copy.json"))

    (tmp_path / TOKENIZER).write_text(json.dumps(small()))
    use(tmp_path / TOKENIZER)
    counts = refused_or_read(use, tmp_path / TOKENIZER, json_mutations(small()))
    assert min(counts["read"], counts["refused"]) > COUNT // 25


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    byte_tokenizer().save(str(tmp_path / TOKENIZER))
    return open_tokenizer(tmp_path / TOKENIZER, TINY.vocabulary)


@pytest.mark.parametrize(("name", "fields"), [(SETTINGS, SETTINGS_FIELDS), (TOKENS_MAP, TOKENS_FIELDS)])
def test_damaged_settings_of_a_tokenizer_are_read_or_refused(
    tmp_path: Path, tokenizer: Tokenizer, name: str, fields: dict[str, Any]
) -> None:
    def use(_: Path) -> None:
        check_belongs(tokenizer, tmp_path, SpecialTokens(0, (0,), None), SILENT)

    counts = refused_or_read(use, tmp_path / name, json_mutations(fields))
    assert min(counts["read"], counts["refused"]) > COUNT // 10


def test_padding_beyond_the_vocabulary_may_stand_beside_a_token_with_a_list_for_its_id(tmp_path: Path) -> None:
    fields = small()
    fields["added_tokens"][0]["id"] = [0]
    (tmp_path / TOKENIZER).write_text(json.dumps(fields))
    with pytest.raises(SourceError, match="is not a tokenizer"):
        open_tokenizer(tmp_path / TOKENIZER, TINY.vocabulary)


def test_a_long_name_of_a_token_is_cut_in_messages(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / SETTINGS).write_text(json.dumps({"eos_token": "x" * 5000}))
    with pytest.raises(SourceError, match="has no token") as refusal:
        check_belongs(tokenizer, tmp_path, TINY.tokens, SILENT)
    assert len(str(refusal.value)) < 500
