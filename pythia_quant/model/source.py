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
        model: hub repository, folder, or ``builtin:demo``, as it can be given again.
        revision: the revision asked for; ``local`` for a folder.
        commit: the hub commit it resolved to, None for a folder.
        folder: where its files lie.
        architecture: what config.json says, with the special tokens that the model generates with.
        weights: its tensors; their architecture has the special tokens of config.json.
        tokenizer: its tokenizer.
        sha256: of each weight file, by name.
        generation: the content of its generation_config.json, as it is.
        unknown_fields: names in config.json that say nothing to us.
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
    """Open a checkpoint; weights are hashed and every tensor's shape is checked, but none is loaded.

    Args:
        model: a folder or a file in it, ``builtin:demo``, or a hub repository by name or address; see
            :func:`pythia_quant.model.source_name.parse_model`.
        revision: branch, tag or commit of a hub repository.
        progress: is told how much of a download has come, and what the user should know, such as that an old name was
            resolved.

    Raises:
        SourceError: it is not there, damaged, or not a GPT-NeoX that we handle.
    """
    named = parse_model(model, revision)
    if named is None:
        if revision != "main":
            raise SourceError(f"is not a hub repository, so it has no revision {revision!r}", where=model)
        return _open(DEMO, "builtin", None, Path(str(files("pythia_quant") / "model" / "demo")), _local, progress)
    if isinstance(named, Path):
        return _open(str(named), "local", None, named, _local, progress)
    if named.revision and revision not in ("main", named.revision):
        raise SourceError(f"names the revision {named.revision!r}, and {revision!r} is asked for", where=model)
    model, revision = named.repo_id, named.revision or revision
    repo_id, renamed = suite.resolve(model)
    if renamed:
        progress.notice(renamed)
    suite.check_revision(repo_id, revision)
    if fault := suite.fault_notice(repo_id, revision):
        progress.notice(fault)
    config = fetch(repo_id, "config.json", revision)
    if config is None:
        names = [ADAPTER] if fetch(repo_id, ADAPTER, revision) else []
        what, hint = found_instead(names) or ("", "is it a transformers checkpoint?")
        raise SourceError(what or "has no config.json", where=f"{repo_id}@{revision}", hint=hint)
    commit = commit_of(config)
    listed = file_names(repo_id, commit)
    if listed is not None and listed.isdisjoint((MANIFEST, *_WEIGHTS)):
        raise _no_weights(f"{repo_id}@{revision}", listed)

    def hub_file(folder: Path, name: str) -> Path | None:
        if listed is None and name in _OPTIONAL:  # what is in the cache has to do
            return _local(folder, name)
        absent = listed is not None and name not in listed
        return None if absent else fetch(repo_id, name, commit, progress=progress)

    for name in listed or ():
        if re.fullmatch(rf"{TEMPLATES}/[\w.-]+\.jinja", name, re.ASCII):
            hub_file(config.parent, name)
    return _open(repo_id, revision, commit, config.parent, hub_file, progress)


def open_weights(folder: Path) -> WeightFiles:
    """Open the weights of a folder that :func:`open_source` has opened before; nothing is hashed again.

    Raises:
        SourceError: they are not there, or damaged.
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
        what, hint = found_instead(_names(folder)) or ("", "give a folder as the hub serves it")
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
    raise _no_weights(str(folder), _names(folder))


def _no_weights(where: str, names: Iterable[str]) -> SourceError:
    what, hint = found_instead(names) or ("", "")
    neither = f"has neither {SAFETENSORS} nor {PICKLE}, in one file or in shards"
    return SourceError(f"{neither}: it {what}" if what else neither, where=where, hint=hint)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*")]


def _tokenizer(
    folder: Path, get: Callable[[Path, str], Path | None], architecture: Architecture, progress: Progress
) -> Tokenizer:
    found = [get(folder, name) for name in TOKENIZER_FILES]
    if found[0] is None:
        raise SourceError(
            f"has no {TOKENIZER}",
            where=str(folder),
            hint="every Pythia repository has one: copy it here; of other files transformers makes one: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )
    tokenizer = open_tokenizer(found[0], architecture.vocabulary, progress=progress)
    check_belongs(tokenizer, folder, architecture.tokens, progress)
    return tokenizer


def companions(folder: Path) -> list[str]:
    """Return the files that belong to a checkpoint's tokenizer, chat templates too, relative to its folder."""
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
    """Refuse a pointer file, which a clone without git-lfs has in place of a large file.

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


def found_instead(names: Iterable[str]) -> tuple[str, str] | None:
    """Return what the files are instead of a checkpoint, and what the user can do; None when they are not recognized.

    Args:
        names: the names of all files of a folder or repository, relative to it.
    """
    beside = {name for name in names if "/" not in name} - {SAFETENSORS}
    for pattern, what, hint in _KINDS:
        if name := min((name for name in beside if fnmatchcase(name, pattern)), default=None):
            return f"{what} ({printable(name)})", hint
    return None
