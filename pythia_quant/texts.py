"""The text that a recipe or the command line names: built in, a local file, or a file in a hub dataset repository."""

from __future__ import annotations

import platform
from pathlib import Path

from tokenizers import Tokenizer

from pythia_quant.builtin_text import held_out_text, training_text
from pythia_quant.core.errors import CorpusError
from pythia_quant.core.hub_files import Tell, fetch, say_nothing
from pythia_quant.corpus import Text
from pythia_quant.recipe.recipe import TextSettings
from pythia_quant.text_files import read_text


def load_text(settings: TextSettings, tokenizer: Tokenizer, progress: Tell = say_nothing) -> Text:
    """Load a text.

    Args:
        settings: which one.
        tokenizer: decides what the built-in held-out text shares with the training text.
        progress: told how much of a download has come.

    Raises:
        CorpusError: it is not there or not text.
        SourceError: the hub cannot give it.
    """
    if settings.builtin:
        content = training_text() if settings.builtin == "training" else held_out_text(tokenizer)
        return Text(f"Python {platform.python_version()} standard library, {settings.builtin} documents", content)
    assert settings.file is not None  # noqa: S101 - TextSettings guarantees one of the two
    name, path = settings.file, Path(settings.file)
    if settings.dataset is not None:
        cached = fetch(settings.dataset, settings.file, settings.revision, "dataset", progress)
        if cached is None:
            raise CorpusError(f"has no file {settings.file}", where=f"dataset {settings.dataset}@{settings.revision}")
        name, path = f"{settings.dataset} {settings.file}", cached
    return Text(name, read_text(path, settings.column, settings.join))
