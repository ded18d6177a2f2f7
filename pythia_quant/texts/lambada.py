"""LAMBADA's passages: a local file, or one of a hub dataset repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pythia_quant.core.errors import CorpusError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.foreign_files import parse_json
from pythia_quant.core.hub_files import fetch
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.recipe.measurement import LambadaSettings
from pythia_quant.texts.load import read_utf8

_HINT = 'a line is {"text": "…"}, as in data/lambada_test.jsonl of the dataset EleutherAI/lambada_openai'


@dataclass(frozen=True)
class Passages:
    """Where passages are, what they are called, and how many of them are to be measured on, from the first."""

    name: str
    path: Path
    sha256: str
    examples: int


def load_passages(settings: LambadaSettings, progress: Progress = SILENT) -> Passages:
    """Find the passages a recipe names, and read them once: all that can be checked is checked before any work.

    Args:
        settings: which ones.
        progress: is told how much of a download has come.

    Raises:
        CorpusError: they are not there, or not passages.
        SourceError: the hub cannot give them.
    """
    name, path = settings.file, Path(settings.file)
    if settings.dataset is not None:
        fetched = fetch(settings.dataset, settings.file, settings.revision, "dataset", progress)
        where = f"dataset {settings.dataset}@{settings.revision}"
        if fetched is None:
            hint = "name another under tasks.lambada, or leave that out"
            raise CorpusError(f"has no file {settings.file}", where=where, hint=hint)
        name, path = f"{settings.dataset} {settings.file}", fetched
    count = len(read_passages(path))
    return Passages(name, path, sha256_if_changed(path), min(count, settings.examples or count))


def read_passages(path: Path) -> list[str]:
    """Read the passages of a jsonl file, one ``{"text": ...}`` a line; blank lines are skipped.

    Raises:
        CorpusError: the file is missing, not UTF-8 or has fewer than two rows, or a row is no JSON or lacks a text of
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
