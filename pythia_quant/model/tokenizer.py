"""Open a tokenizer in one way for every use, and check that it belongs to the model."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from pythia_quant.core.errors import CorpusError, PythiaQuantError, SourceError
from pythia_quant.core.foreign_files import own_file, read_object
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.core.text import short
from pythia_quant.model.architecture import SpecialTokens

TOKENIZER = "tokenizer.json"
SETTINGS, TOKENS_MAP = "tokenizer_config.json", "special_tokens_map.json"
TOKENIZER_FILES = (TOKENIZER, SETTINGS, TOKENS_MAP, "added_tokens.json", "chat_template.jinja", "chat_template.json")
"""The files from which transformers opens a tokenizer, now and before version 5; we need only the first."""
TEMPLATES = "additional_chat_templates"
"""The folder in which transformers 5 keeps chat templates beside the usual one, as ``*.jinja``."""
END_OF_TEXT = "<|endoftext|>"

_NO_LIMITS: dict[str, Any] = {"truncation": None, "padding": None}


def open_tokenizer(
    path: Path, vocabulary: int, kind: type[PythiaQuantError] = SourceError, progress: Progress = SILENT
) -> Tokenizer:
    """Open a ``tokenizer.json`` so that a text is never cut or padded, and no token is beyond the model's vocabulary.

    Truncation and padding, which transformers saves with it, are switched off. Padding tokens that were added beyond
    the vocabulary, for which the model has no embedding, are left out: a text that spells one is read as text.

    Args:
        path: the file; ``tokenizer_config.json`` may stand beside it.
        vocabulary: the rows of the model's embedding matrix.
        kind: the class of the error to raise: SourceError for a source, ArtifactError for an artifact.
        progress: receives a message when padding tokens are left out.

    Raises:
        PythiaQuantError: of class `kind`; the file is missing or damaged, or has other tokens beyond the vocabulary.
    """
    hint = "every Pythia repository has one: copy it here" if kind is SourceError else "convert again with --overwrite"
    own_file(path.parent, path.name, kind)
    fields = read_object(path, kind, hint) | _NO_LIMITS
    beyond = _padding_beyond(fields, vocabulary, _named(path.parent, "pad_token"))
    if beyond:
        fields["added_tokens"] = [
            token
            for token in fields["added_tokens"]
            if not (isinstance(token.get("id"), int) and token["id"] in beyond)
        ]
        names = short(", ".join(map(short, beyond.values())), 300)
        progress.notice(f"{path.name} has {names} for padding beyond the model's {vocabulary:,} tokens: not used")
    with _refused(f"is not a tokenizer of the tokenizers library, or damaged: {path.name}", path, kind, hint), _quiet():
        tokenizer: Tokenizer = Tokenizer.from_str(json.dumps(fields))
        tokenizer.encode("a b", add_special_tokens=False)
    number, name = max(((number, name) for name, number in tokenizer.get_vocab().items()), default=(-1, ""))
    if number >= vocabulary:
        raise kind(
            f"has {number + 1:,} tokens, the model's vocabulary is {vocabulary:,}; the last one is {short(name)}",
            where=str(path),
            hint="tokenizer and model do not belong together, or the embeddings were not resized when it was added",
        )
    return tokenizer


def copy_without_limits(path: Path, target: Path) -> None:
    """Copy a ``tokenizer.json``, without truncation and padding: programs differ in whether they obey them."""
    fields = read_object(path, SourceError)
    if all(fields.get(name) is None for name in _NO_LIMITS):
        shutil.copyfile(path, target)
    else:
        target.write_text(json.dumps(fields | _NO_LIMITS, ensure_ascii=False), encoding="utf-8")


def content_without_limits(path: Path) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json``, without truncation and padding.

    Raises:
        SourceError: it is no JSON object.
    """
    return read_object(path, SourceError) | _NO_LIMITS


def tokenize(tokenizer: Tokenizer, text: str) -> Encoding:
    """Tokenize a text as it is, without special tokens around it.

    Raises:
        CorpusError: the text cannot be UTF-8, or the tokenizer fails on it.
    """
    with _refused("the tokenizer fails on the text", None, CorpusError, "is the text UTF-8?"):
        return tokenizer.encode(text, add_special_tokens=False)


def check_belongs(tokenizer: Tokenizer, folder: Path, tokens: SpecialTokens, progress: Progress) -> None:
    """Refuse a tokenizer of another model, even if it has few enough tokens.

    Tokenizer and model of a fine-tune may name different end tokens. The tokenizer is another model's when its end
    token is none of the model's, and no special token of the model is a special token of the tokenizer.

    Args:
        tokenizer: opened from `folder`.
        folder: the folder in which ``tokenizer_config.json`` may stand.
        tokens: the model's special tokens.
        progress: receives a message when tokenizer and model end texts differently.

    Raises:
        SourceError: tokenizer and model do not belong together, or the tokenizer lacks its own end token.
    """
    name = _named(folder, "eos_token", END_OF_TEXT if tokenizer.token_to_id(END_OF_TEXT) is not None else None)
    if name is None:
        return
    end = tokenizer.token_to_id(name)
    if end is None:
        raise SourceError(
            f"has no token {short(name)}, which ends a text by {SETTINGS}",
            where=str(folder / TOKENIZER),
            hint=f"name one that it has as eos_token in {SETTINGS}, or none: null",
        )
    if not tokens.ends or end in tokens.ends:
        return
    model_end = f"{tokens.end} ({short(tokenizer.id_to_token(tokens.ends[0]))})"
    special = {end, *tokenizer.get_added_tokens_decoder()}
    if special.isdisjoint({*tokens.ends, tokens.begin, tokens.pad}):
        raise SourceError(
            f"ends a text with token {end} ({short(name)}), the model with {model_end}, no special token here",
            where=str(folder / TOKENIZER),
            hint="tokenizer and model do not belong together",
        )
    progress.notice(
        f"the tokenizer's eos_token is {end} ({short(name)}), but generation stops at {model_end}, as in transformers: "
        "eos_token_id of generation_config.json, or of config.json without one, decides"
    )


def _named(folder: Path, key: str, default: str | None = None) -> str | None:
    """Return how a special token is spelled by the files beside a tokenizer; None where they say that there is none."""
    for file in (SETTINGS, TOKENS_MAP):
        path = own_file(folder, file, SourceError)
        fields = read_object(path, SourceError, "download it again") if path else {}
        if key in fields:
            value = fields[key]
            value = value.get("content") if isinstance(value, dict) else value
            if value is not None and not isinstance(value, str):
                raise SourceError(f"{key} is of the wrong type: {short(value)}", where=str(path))
            return value
    return default


def _padding_beyond(fields: dict[str, Any], vocabulary: int, padding: str | None) -> dict[int, str]:
    """Return the added tokens beyond the vocabulary if all of them are for padding, which no text holds."""
    added = fields.get("added_tokens")
    if not isinstance(added, list) or not all(isinstance(one, dict) for one in added):
        return {}  # the tokenizers library says what is wrong
    beyond = {
        number: str(one.get("content"))
        for one in added
        if isinstance(number := one.get("id"), int) and number >= vocabulary
    }
    unused = all(name == padding or "pad" in name.casefold() for name in beyond.values())
    return beyond if unused else {}


@contextmanager
def _refused(what: str, path: Path | None, kind: type[PythiaQuantError], hint: str) -> Iterator[None]:
    """Turn what the tokenizers library raises into one error: a plain Exception, or a panic, which is not even one."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{what} ({str(error)[:120]})", where=str(path or ""), hint=hint) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the report that Rust writes to the process's standard error when the tokenizers library panics."""
    try:
        standard_error = os.dup(2)
    except OSError:  # there is none
        yield
        return
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
        os.close(nowhere)
