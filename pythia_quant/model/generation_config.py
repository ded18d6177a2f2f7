"""``generation_config.json``: how a model generates text. transformers obeys it before ``config.json``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pythia_quant.core.errors import SourceError
from pythia_quant.core.foreign_files import own_file, read_object
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.model.architecture import Architecture, SpecialTokens
from pythia_quant.model.config import read_config, special_tokens

GENERATION_CONFIG = "generation_config.json"
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


# Says that the file was made from config.json: ours is made from both.
_ORIGIN = "_from_model_config"


def read_model(folder: Path, progress: Progress = SILENT, *, quantized: bool = False) -> Architecture:
    """Read the ``config.json`` of a checkpoint or an artifact, with the special tokens that it generates with.

    transformers stops where ``generation_config.json`` says. What that file does not name is as in ``config.json``.

    Args:
        folder: where the files are.
        progress: told of a padding token that the model does not have; it has none then.
        quantized: it is an artifact's; see :func:`~pythia_quant.model.config.read_config`.

    Raises:
        SourceError: one of the files is damaged, or of a model that is not handled.
    """
    architecture = read_config(folder / "config.json", quantized=quantized)
    where, vocabulary = str(folder / GENERATION_CONFIG), architecture.vocabulary
    tokens = special_tokens(read_settings(folder), vocabulary, where, architecture.tokens)
    if tokens.pad is not None and tokens.pad >= vocabulary:
        progress.notice(f"the model has {vocabulary:,} tokens, and pad_token_id is {tokens.pad}: not used")
        tokens = replace(tokens, pad=None)
    return replace(architecture, tokens=tokens)


def tokens_of_config(config: SpecialTokens, generation: SpecialTokens) -> SpecialTokens:
    """Return the special tokens for an artifact's ``config.json``: the source's, and those it generates with.

    Args:
        config: by the source's ``config.json``.
        generation: that it generates with; where its ends are others than `config`'s, each file keeps its own.
    """
    return SpecialTokens(
        begin=generation.begin if config.begin is None else config.begin,
        ends=generation.ends if set(config.ends) <= set(generation.ends) else config.ends,
        pad=generation.pad,
    )


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the content of ``generation_config.json``; empty where there is none.

    Raises:
        SourceError: it is no JSON object, holds a number that JSON has not, which other programs would not read, or is
            a link that leads out of the folder.
    """
    path, hint = own_file(folder, GENERATION_CONFIG, SourceError), "download it again, or remove it"
    settings = read_object(path, SourceError, hint) if path else {}
    try:
        json.dumps(settings, allow_nan=False)
    except ValueError as error:
        raise SourceError("holds a number that is not finite", where=str(path), hint=hint) from error
    return settings


def settings_to_write(settings: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
    """Return an artifact's ``generation_config.json``: the source's, with the special tokens of `architecture`.

    Where the source does not say whether to sample, the most likely token is taken.
    """
    source_settings = {name: value for name, value in settings.items() if name not in (_ORIGIN, *TOKEN_IDS)}
    config = architecture.config()
    return {"do_sample": False} | source_settings | {name: config[name] for name in TOKEN_IDS if name in config}
