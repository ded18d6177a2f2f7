"""A checkpoint at rest: find it, resolve its revision to a commit, hash its weights, and read one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tokenizers import Tokenizer

from pythia_quant import suite
from pythia_quant.architecture import Architecture
from pythia_quant.config_file import read_config
from pythia_quant.errors import SourceError
from pythia_quant.hub_files import Tell, check_download, commit_of, fetch, say_nothing, sha256
from pythia_quant.inside import own_file
from pythia_quant.manifest import DEMO
from pythia_quant.weights import INDEX_SUFFIX, PICKLE, SAFETENSORS, WeightFiles, weight_file_names

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Attributes:
        model: hub repository, folder, or ``builtin:demo``, as it can be given again.
        revision: the revision asked for; ``local`` for a folder.
        commit: the hub commit it resolved to, None for a folder.
        folder: where its files lie.
        architecture: what config.json says.
        weights: its tensors.
        tokenizer: its tokenizer.
        sha256: of each weight file, by name.
    """

    model: str
    revision: str
    commit: str | None
    folder: Path
    architecture: Architecture
    weights: WeightFiles
    tokenizer: Tokenizer
    sha256: dict[str, str]

    @property
    def slug(self) -> str:
        """The source's name as a single folder name."""
        return self.model.replace("/", "--") if self.commit else self.name

    @property
    def name(self) -> str:
        """The last part of the model's name, for people."""
        return "demo" if self.model == DEMO else Path(self.model).name


def open_source(model: str, revision: str = "main", notice: Tell = say_nothing, progress: Tell = say_nothing) -> Source:
    """Open a checkpoint; weights are hashed and every tensor's shape is checked, but none is loaded.

    Args:
        model: a folder, ``builtin:demo``, or the name of a hub repository.
        revision: branch, tag or commit of a hub repository.
        notice: told what the user should know, such as that an old name was resolved.
        progress: told how much of a download has come.

    Raises:
        SourceError: it is not there, damaged, or not a GPT-NeoX that we handle.
    """
    folder = Path(model).expanduser()
    if (model == DEMO or folder.is_dir()) and revision != "main":
        raise SourceError(f"is not a hub repository, so it has no revision {revision!r}", where=model)
    if model == DEMO:
        return _open(DEMO, "builtin", None, Path(str(files("pythia_quant") / "demo" / "model")), _local)
    if folder.is_dir():
        return _open(str(folder.resolve()), "local", None, folder.resolve(), _local)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise SourceError("there is no such folder", where=model)
    repo_id, renamed = suite.resolve(model)
    if renamed:
        notice(renamed)
    suite.check_revision(repo_id, revision)
    if fault := suite.known_fault(repo_id, revision):
        part = f"shard {fault.shard} of " if fault.shard else ""
        notice(f"{repo_id}@{revision} is known to serve {part}the weights of {fault.serves} ({fault.issue})")
    config = fetch(repo_id, "config.json", revision)
    if config is None:
        raise SourceError("has no config.json", where=f"{repo_id}@{revision}", hint="is it a transformers checkpoint?")
    commit = commit_of(config)

    def hub_file(_: Path, name: str) -> Path | None:
        return fetch(repo_id, name, commit, progress=progress)

    return _open(repo_id, revision, commit, config.parent, hub_file)


def open_weights(folder: Path) -> WeightFiles:
    """Open the weights of a folder that :func:`open_source` has opened before; nothing is hashed again.

    Raises:
        SourceError: they are not there, or damaged.
    """
    return WeightFiles(_weight_files(folder, _local), read_config(folder / "config.json"))


def _local(folder: Path, name: str) -> Path | None:
    return own_file(folder, name, SourceError)


def _open(
    model: str, revision: str, commit: str | None, folder: Path, get: Callable[[Path, str], Path | None]
) -> Source:
    config = get(folder, "config.json")
    if config is None:
        raise SourceError("has no config.json", where=str(folder), hint="give a folder as the hub serves it")
    architecture = read_config(config)
    member = suite.find(model)
    if member and (member.size.width, member.size.layers) != (architecture.width, architecture.layers):
        raise SourceError(f"is not the shape of {member.repo_id}", where=str(config))
    paths = _weight_files(folder, get)
    weights = WeightFiles(paths, architecture)
    digests = {path.name: sha256(path) for path in paths}
    if commit:
        for path in paths:
            check_download(path, digests[path.name])
    return Source(
        model, revision, commit, folder, architecture, weights, _tokenizer(folder, get, architecture), digests
    )


def _weight_files(folder: Path, get: Callable[[Path, str], Path | None]) -> list[Path]:
    # Safetensors first: where both exist they hold the same tensors, and a pickle has to be distrusted.
    for single in (SAFETENSORS, PICKLE):
        if found := get(folder, single):
            return [found]
        if index := get(folder, f"{single}{INDEX_SUFFIX}"):
            shards = []
            for name in weight_file_names(index):
                shard = get(folder, name)
                if shard is None:
                    raise SourceError(
                        f"the shard {name} is missing", where=str(index), hint="download it, or the whole model again"
                    )
                shards.append(shard)
            return shards
    raise SourceError(f"has neither {SAFETENSORS} nor {PICKLE}, in one file or in shards", where=str(folder))


def _tokenizer(folder: Path, get: Callable[[Path, str], Path | None], architecture: Architecture) -> Tokenizer:
    paths = {name: get(folder, name) for name in TOKENIZER_FILES}
    path = paths["tokenizer.json"]
    if path is None:
        raise SourceError(
            "has no tokenizer.json", where=str(folder), hint="every Pythia repository has one; copy it here"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise SourceError(f"is not a tokenizer ({str(error)[:120]})", where=str(path)) from error
    if tokenizer.get_vocab_size() > architecture.vocabulary:
        raise SourceError(
            f"has {tokenizer.get_vocab_size():,} tokens, the model's vocabulary is {architecture.vocabulary:,}",
            where=str(path),
            hint="tokenizer and model do not belong together",
        )
    _check_end(tokenizer, path, paths["tokenizer_config.json"], architecture)
    return tokenizer


def _check_end(tokenizer: Tokenizer, path: Path, settings: Path | None, architecture: Architecture) -> None:
    """Compare the end of a text in the tokenizer with the model's: another tokenizer may well have fewer tokens."""
    try:
        fields = json.loads(settings.read_text(encoding="utf-8")) if settings else {}
        name = fields.get("eos_token", END_OF_TEXT)
        name = name.get("content") if isinstance(name, dict) else name
    except (OSError, ValueError, AttributeError) as error:
        raise SourceError(f"cannot be read ({error})", where=str(settings), hint="download it again") from error
    found = tokenizer.token_to_id(str(name))
    if architecture.tokens.end is not None and found != architecture.tokens.end:
        number = "has no token" if found is None else f"gives number {found} to"
        raise SourceError(
            f"{number} {name!r}; in config.json the text ends with token {architecture.tokens.end}",
            where=str(path),
            hint="tokenizer and model do not belong together",
        )
