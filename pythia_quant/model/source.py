"""A checkpoint at rest: find it, resolve its revision to a commit, hash its weights, and read one tensor at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pythia_quant.core.errors import SourceError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.foreign_files import MANIFEST, is_file_name, own_file, read_object
from pythia_quant.core.hub_files import check_download, commit_of, fetch, file_names
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.core.text import printable
from pythia_quant.model import suite
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.config import read_config, unknown_fields
from pythia_quant.model.generation_config import GENERATION_CONFIG, read_model, read_settings, tokens_of_config
from pythia_quant.model.source_name import DEMO, folder_name, parse_model
from pythia_quant.model.tokenizer import TEMPLATES, TOKENIZER, TOKENIZER_FILES, check_belongs, open_tokenizer
from pythia_quant.model.weights import INDEX_SUFFIX, MERGE, PICKLE, SAFETENSORS, WeightFiles, weight_file_names

_WEIGHTS = tuple(f"{name}{suffix}" for name in (SAFETENSORS, PICKLE) for suffix in ("", INDEX_SUFFIX))

_OPTIONAL = (MANIFEST, GENERATION_CONFIG, *TOKENIZER_FILES[1:])


@dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Attributes:
        model: the hub repository, the folder, or ``builtin:demo``; :func:`open_source` takes it again.
        revision: the revision that the user named; ``local`` for a folder.
        commit: the hub's commit at that revision; None for a folder.
        folder: the folder that holds the files.
        architecture: the shape by config.json, with the special tokens that the model generates with.
        weights: the tensors; their architecture has the special tokens of config.json.
        tokenizer: the tokenizer.
        sha256: the hex SHA-256 of each weight file, by the file's name.
        generation: the unchanged content of generation_config.json.
        unknown_fields: the fields of config.json that GPT-NeoX in transformers does not have.
    """

    model: str
    revision: str
    commit: str | None
    folder: Path
    architecture: Architecture
    weights: WeightFiles
    tokenizer: Tokenizer
    sha256: dict[str, str]
    generation: dict[str, Any] = field(default_factory=dict)
    unknown_fields: list[str] = field(default_factory=list)

    @property
    def slug(self) -> str:
        """The source's name as a single folder name."""
        return self.model.replace("/", "--") if self.commit else self.name

    @property
    def name(self) -> str:
        """The last part of the model's name, for people."""
        if self.commit or self.model == DEMO:
            return self.model.rpartition("/")[2].rpartition(":")[2]
        return folder_name(Path(self.model))


def open_source(model: str, revision: str = "main", progress: Progress = SILENT) -> Source:
    """Open a checkpoint: hash its weight files and check every tensor's shape, without loading a tensor.

    Args:
        model: a folder or a file in it, ``builtin:demo``, or a hub repository by name or address; see
            :func:`pythia_quant.model.source_name.parse_model`.
        revision: branch, tag or commit of a hub repository.
        progress: receives how much of a download has come, and what the user should know, such as that an old name was
            resolved.

    Raises:
        SourceError: the checkpoint is missing, damaged, or not a GPT-NeoX that we handle.
    """
    place = parse_model(model, revision)
    if place is None:
        if revision != "main":
            raise SourceError(f"is not a hub repository, so it has no revision {revision!r}", where=model)
        return _open(DEMO, "builtin", None, Path(str(files("pythia_quant") / "model" / "demo")), _local, progress)
    if isinstance(place, Path):
        return _open(str(place), "local", None, place, _local, progress)
    if place.revision and revision not in ("main", place.revision):
        raise SourceError(f"names the revision {place.revision!r}, and {revision!r} is asked for", where=model)
    model, revision = place.repo_id, place.revision or revision
    repo_id, renamed = suite.resolve(model)
    if renamed:
        progress.notice(renamed)
    suite.check_revision(repo_id, revision)
    if fault := suite.fault_notice(repo_id, revision):
        progress.notice(fault)
    config = fetch(repo_id, "config.json", revision)
    if config is None:
        names = [ADAPTER] if fetch(repo_id, ADAPTER, revision) else []
        what, hint = recognize_files(names) or ("", "is it a transformers checkpoint?")
        raise SourceError(what or "has no config.json", where=f"{repo_id}@{revision}", hint=hint)
    commit = commit_of(config)
    hub_names = file_names(repo_id, commit)
    if hub_names is not None and hub_names.isdisjoint((MANIFEST, *_WEIGHTS)):
        raise _no_weights(f"{repo_id}@{revision}", hub_names)

    def hub_file(folder: Path, name: str) -> Path | None:
        if hub_names is None and name in _OPTIONAL:  # without the hub, the cache has all the files that we can get
            return _local(folder, name)
        absent = hub_names is not None and name not in hub_names
        return None if absent else fetch(repo_id, name, commit, progress=progress)

    for name in hub_names or ():
        if re.fullmatch(rf"{TEMPLATES}/[\w.-]+\.jinja", name, re.ASCII):
            hub_file(config.parent, name)
    return _open(repo_id, revision, commit, config.parent, hub_file, progress)


def open_weights(folder: Path) -> WeightFiles:
    """Open the weights of a folder that :func:`open_source` has opened before, without hashing them again.

    Raises:
        SourceError: the weights are missing or damaged.
    """
    return WeightFiles(_weight_files(folder, _local), read_config(folder / "config.json"))


def _local(folder: Path, name: str) -> Path | None:
    path = own_file(folder, name, SourceError)
    if path:
        refuse_pointer(path)
    return path


def _open(
    model: str,
    revision: str,
    commit: str | None,
    folder: Path,
    get: Callable[[Path, str], Path | None],
    progress: Progress,
) -> Source:
    _refuse_artifact(folder, get)
    config = get(folder, "config.json")
    if config is None:
        what, hint = recognize_files(_names(folder)) or ("", "give a folder as the hub serves it")
        raise SourceError("has no config.json" + (f": it {what}" if what else ""), where=str(folder), hint=hint)
    get(folder, GENERATION_CONFIG)
    architecture = read_model(folder, progress)
    unknown = unknown_fields(read_object(config, SourceError))
    if unknown:
        names = printable(", ".join(unknown))
        what = "has fields that say nothing to GPT-NeoX in transformers, and are not used"
        progress.notice(f"config.json {what}: {names[:500]}")
    member = suite.find(model)
    if member and (member.size.width, member.size.layers) != (architecture.width, architecture.layers):
        raise SourceError(f"is not the shape of {member.repo_id}", where=str(config))
    tokenizer = _tokenizer(folder, get, architecture, progress)
    paths = _weight_files(folder, get)
    own = read_config(config)
    weights = WeightFiles(paths, replace(own, tokens=tokens_of_config(own.tokens, architecture.tokens)))
    digests = {path.name: sha256_if_changed(path) for path in paths}
    if commit:
        for path in paths:
            check_download(path, digests[path.name])
    return Source(
        model, revision, commit, folder, architecture, weights, tokenizer, digests, read_settings(folder), unknown
    )


def _refuse_artifact(folder: Path, get: Callable[[Path, str], Path | None]) -> None:
    if get(folder, MANIFEST) is not None:
        raise SourceError(
            "is an artifact of ours, quantized already",
            where=str(folder),
            hint="bench, verify and generate take it; to quantize, give the checkpoint that it was made from",
        )


def _weight_files(folder: Path, get: Callable[[Path, str], Path | None]) -> list[Path]:
    # Safetensors first: where both exist they hold the same tensors, and a pickle may run code when it is read.
    for single in (SAFETENSORS, PICKLE):
        if file := get(folder, single):
            return [file]
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
    raise _no_weights(str(folder), _names(folder))


def _no_weights(where: str, names: Iterable[str]) -> SourceError:
    what, hint = recognize_files(names) or ("", "")
    neither = f"has neither {SAFETENSORS} nor {PICKLE}, in one file or in shards"
    return SourceError(f"{neither}: it {what}" if what else neither, where=where, hint=hint)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*")]


def _tokenizer(
    folder: Path, get: Callable[[Path, str], Path | None], architecture: Architecture, progress: Progress
) -> Tokenizer:
    files = [get(folder, name) for name in TOKENIZER_FILES]
    if files[0] is None:
        raise SourceError(
            f"has no {TOKENIZER}",
            where=str(folder),
            hint="every Pythia repository has one: copy it here; of other files transformers makes one: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )
    tokenizer = open_tokenizer(files[0], architecture.vocabulary, progress=progress)
    check_belongs(tokenizer, folder, architecture.tokens, progress)
    return tokenizer


def companions(folder: Path) -> list[str]:
    """Return the names of a checkpoint's tokenizer files and chat templates, relative to its folder."""
    templates = sorted(f"{TEMPLATES}/{path.name}" for path in (folder / TEMPLATES).glob("*.jinja"))
    names = [*TOKENIZER_FILES, *filter(is_file_name, templates)]
    return [name for name in names if own_file(folder, name, SourceError)]


ADAPTER = "adapter_config.json"

_SAVE = "load it with the program that wrote it and save it with transformers' save_pretrained()"

_KINDS = (
    (ADAPTER, "is an adapter (LoRA), not a whole model", MERGE),
    ("*.gguf", "holds GGUF", "give the checkpoint that it was made from, in safetensors"),
    ("tf_model*.h5", "holds TensorFlow weights", _SAVE),
    ("flax_model*.msgpack", "holds Flax weights", _SAVE),
    ("*.onnx", "holds an ONNX graph", "give the checkpoint that it was made from, in safetensors"),
    ("*.safetensors", "holds safetensors under another name", "call the file model.safetensors, or give it an index"),
    ("*.pth", "holds a file of torch", _SAVE),
    ("*.pt", "holds a file of torch", _SAVE),
    ("*.ckpt", "holds a training checkpoint", _SAVE),
)

_POINTER = b"version https://git-lfs.github.com/spec/"
"""The beginning of a pointer file, which stands for a file that git-lfs has not fetched (docs/spec.md of git-lfs)."""


def refuse_pointer(path: Path) -> None:
    """Refuse a pointer file, which stands for a large file in a clone that was made without git-lfs.

    Raises:
        SourceError: the file is a pointer.
    """
    beginning = b""
    with suppress(OSError), path.open("rb") as file:  # the code that reads the whole file reports the error
        beginning = file.read(len(_POINTER))
    if beginning == _POINTER:
        raise SourceError(
            "is a pointer of git-lfs, not the file", where=str(path), hint="run git lfs pull in the clone"
        )


def recognize_files(names: Iterable[str]) -> tuple[str, str] | None:
    """Recognize files that are not a checkpoint, such as an adapter or GGUF, by their names.

    Args:
        names: the names of all files of a folder or repository, relative to it.

    Returns:
        What the files are, and what the user can do; None when no name is recognized.
    """
    top_names = {name for name in names if "/" not in name} - {SAFETENSORS}
    for pattern, what, hint in _KINDS:
        if name := min((name for name in top_names if fnmatchcase(name, pattern)), default=None):
            return f"{what} ({printable(name)})", hint
    return None
