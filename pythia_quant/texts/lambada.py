"""LAMBADA's passages, from a local file or a hub's dataset, each split into its context and its last word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from pythia_quant.core.errors import CorpusError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.foreign_files import parse_json
from pythia_quant.core.hub_files import fetch
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.model.tokenizer import tokenize
from pythia_quant.recipe.measurement import LambadaSettings
from pythia_quant.texts.load import read_utf8

_HINT = 'a line is {"text": "…"}, as in data/lambada_test.jsonl of the dataset EleutherAI/lambada_openai'


class Example(NamedTuple):
    """A passage as tokens.

    Attributes:
        context: the tokens of all that precedes the last word.
        word: the tokens of the last word and of the space before it.
    """

    context: list[int]
    word: list[int]


def split_passage(tokenizer: Tokenizer, text: str, end_of_text: int) -> Example:
    """Tokenize a passage and split it before its last word, which is what follows its last space.

    The split is that of the task ``lambada_openai`` of EleutherAI's lm-evaluation-harness.

    Args:
        tokenizer: the model's; no special tokens are added.
        text: the passage.
        end_of_text: the token that stands for an empty context.
    """
    before, _, word = text.rpartition(" ")
    tokens: list[int] = tokenize(tokenizer, f"{before} {word}").ids
    # White space before the last space belongs to the last word, because a token may hold both.
    size = len(tokenize(tokenizer, before.rstrip()).ids)
    if size == 0 and tokens[:1] != [end_of_text]:
        return Example([end_of_text], tokens)
    return Example(tokens[: size or 1], tokens[size or 1 :])


@dataclass(frozen=True)
class Passages:
    """A file of passages.

    Attributes:
        name: the file's name for people, with its dataset if it has one.
        path: the file.
        sha256: the file's hex SHA-256.
        examples: the number of passages to measure, from the first.
    """

    name: str
    path: Path
    sha256: str
    examples: int


def load_passages(settings: LambadaSettings, progress: Progress = SILENT) -> Passages:
    """Fetch the passages that a recipe names, and check that all of them can be read.

    Args:
        settings: the file, and how many of its passages to measure.
        progress: receives how much of a download has come.

    Raises:
        CorpusError: the file is missing, or does not hold passages.
        SourceError: the file cannot be fetched from the hub.
    """
    name, path = settings.file, Path(settings.file)
    if settings.dataset is not None:
        cached = fetch(settings.dataset, settings.file, settings.revision, "dataset", progress)
        where = f"dataset {settings.dataset}@{settings.revision}"
        if cached is None:
            hint = "name another under tasks.lambada, or leave that out"
            raise CorpusError(f"has no file {settings.file}", where=where, hint=hint)
        name, path = f"{settings.dataset} {settings.file}", cached
    count = len(read_passages(path))
    return Passages(name, path, sha256_if_changed(path), min(count, settings.examples or count))


def read_passages(path: Path) -> list[str]:
    """Read the passages of a jsonl file, one ``{"text": ...}`` a line; blank lines are skipped.

    Raises:
        CorpusError: the file is missing, not UTF-8, or has fewer than two rows; or a row is no JSON, or has no text of
            two words.
    """
    # Not splitlines: JSON may hold a line separator such as U+2028 as it is.
    lines = enumerate(read_utf8(path).split("\n"), 1)
    passages = [_passage(line, f"{path}:{number}") for number, line in lines if line.strip()]
    if len(passages) < 2:
        raise CorpusError(f"has {len(passages)} rows, an error bar takes two", where=str(path), hint=_HINT)
    return passages


def _passage(line: str, where: str) -> str:
    row = parse_json(line.encode(), where, CorpusError, _HINT)
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise CorpusError("the row has no text", where=where, hint=_HINT)
    context, _, word = text.rpartition(" ")
    if not context.strip() or not word.strip():
        raise CorpusError("the text has no two words with a space between", where=where, hint=_HINT)
    return text
