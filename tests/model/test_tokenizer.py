"""A tokenizer is opened in one way, whatever transformers or a fine-tune has saved in it."""

import json
from pathlib import Path
from typing import Any

import pytest
from heard import Heard
from tiny import TINY, byte_tokenizer, write_checkpoint
from tokenizers import Tokenizer

from pythia_quant.core.errors import ArtifactError, CorpusError, SourceError
from pythia_quant.model.architecture import SpecialTokens
from pythia_quant.model.generation_config import read_model
from pythia_quant.model.source import open_source
from pythia_quant.model.tokenizer import check_belongs, copy_without_limits, open_tokenizer, tokenize
from pythia_quant.texts.windows import encode

TEXT = "a text of more than eight bytes, " * 20


@pytest.fixture
def cutting(tmp_path: Path) -> Path:
    """A tokenizer that cuts at 8 tokens and pads to 16."""
    tokenizer = byte_tokenizer()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_truncation_and_padding_that_were_saved_do_not_hold(cutting: Path) -> None:
    assert len(Tokenizer.from_file(str(cutting)).encode(TEXT).ids) == 16
    opened = open_tokenizer(cutting, TINY.vocabulary)
    assert encode(opened, TEXT).tolist() == byte_tokenizer().encode(TEXT).ids
    copy_without_limits(cutting, cutting.with_name("written.json"))
    assert Tokenizer.from_file(str(cutting.with_name("written.json"))).encode(TEXT).ids == encode(opened, TEXT).tolist()


def test_what_cuts_nothing_is_copied_byte_for_byte(tmp_path: Path) -> None:
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"), pretty=True)
    copy_without_limits(tmp_path / "tokenizer.json", tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


PANIC = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: "", "is not JSON"),
        (lambda text: text[:500], "is not JSON"),
        (lambda _: "{}", "not a tokenizer"),
        (lambda _: "[]", "not a JSON object"),
        (lambda text: json.dumps(json.loads(text) | {"added_tokens": 5}), "not a tokenizer"),
        (lambda text: json.dumps(json.loads(text) | PANIC), "not a tokenizer"),
    ],
)
def test_damage_is_one_error_even_where_the_library_panics(
    tmp_path: Path, damage: Any, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ArtifactError, match="no such file"):
        open_tokenizer(path, TINY.vocabulary, ArtifactError)
    byte_tokenizer().save(str(path))
    path.write_text(damage(path.read_text()))
    with pytest.raises(SourceError, match=message):
        open_tokenizer(path, TINY.vocabulary)
    assert capfd.readouterr().err == ""


def save_with(folder: Path, *added: str) -> Path:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"filler{number}" for number in range(TINY.vocabulary - 257)])
    tokenizer.add_special_tokens(list(added))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_padding_beyond_the_vocabulary_is_left_out_with_a_notice(tmp_path: Path) -> None:
    heard = Heard()
    opened = open_tokenizer(save_with(tmp_path, "[PAD]"), TINY.vocabulary, progress=heard)
    assert "'[PAD]'" in heard.notices[0]
    assert opened.get_vocab_size() == TINY.vocabulary
    assert opened.decode(encode(opened, "a [PAD]").tolist()) == "a [PAD]"  # as text, of tokens that the model has
    with pytest.raises(SourceError, match=r"273 tokens, the model's vocabulary is 272; the last one is '<\|user\|>'"):
        open_tokenizer(save_with(tmp_path, "<|user|>"), TINY.vocabulary)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "<|user|>"}}))
    assert open_tokenizer(save_with(tmp_path, "<|user|>"), TINY.vocabulary).get_vocab_size() == TINY.vocabulary


@pytest.mark.parametrize(
    ("settings", "tokens", "answer"),
    [
        ({"eos_token": "<|endoftext|>"}, SpecialTokens(), None),
        ({"eos_token": "<|endoftext|>"}, SpecialTokens(0, (5, 0)), None),
        ({"eos_token": None}, SpecialTokens(0, (5,)), None),  # not the token spelled "None"
        ({"eos_token": "!"}, SpecialTokens(), "eos_token is 1 ('!'), but generation stops at 0"),
        ({}, SpecialTokens(0, (5,)), "eos_token is 0 ('<|endoftext|>'), but generation stops at 5"),
        ({"eos_token": "!"}, SpecialTokens(3, (1,)), None),
        ({}, SpecialTokens(5, (5,)), SourceError("ends a text with token 0")),
        ({"eos_token": "</s>"}, SpecialTokens(), SourceError("has no token '</s>'")),
        ({"eos_token": 5}, SpecialTokens(), SourceError("of the wrong type")),
    ],
)
def test_only_a_tokenizer_that_cannot_be_the_models_is_refused(
    tmp_path: Path, settings: dict[str, Any], tokens: SpecialTokens, answer: str | SourceError | None
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    heard = Heard()
    if isinstance(answer, SourceError):
        with pytest.raises(SourceError, match=answer.what):
            check_belongs(byte_tokenizer(), tmp_path, tokens, heard)
        return
    check_belongs(byte_tokenizer(), tmp_path, tokens, heard)
    assert len(heard.notices) == (answer is not None)
    assert (answer or "") in "".join(heard.notices)


def test_a_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(CorpusError, match="UTF-8"):
        tokenize(byte_tokenizer(), "caf\udce9")


def test_a_source_gives_its_tokenizer_uncut(cutting: Path) -> None:
    content = cutting.read_bytes()
    folder = write_checkpoint(cutting.parent / "model")
    (folder / "tokenizer.json").write_bytes(content)
    assert len(encode(open_source(str(folder)).tokenizer, TEXT)) == len(TEXT)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_links_that_leave_the_folder_are_not_followed(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    (folder / "generation_config.json").write_text("{}")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError if name == "tokenizer.json" else SourceError, match=f"{name} is a link"):
        open_tokenizer(folder / "tokenizer.json", read_model(folder).vocabulary, ArtifactError)
