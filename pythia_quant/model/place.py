"""Where a checkpoint's files are: in the package, in a folder, or on a hub, from which they are fetched on demand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path

from pythia_quant.core.errors import SourceError
from pythia_quant.core.foreign_files import MANIFEST, own_file
from pythia_quant.core.hub_files import commit_of, fetch, file_sizes, is_cached
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.core.text import printable
from pythia_quant.model import suite
from pythia_quant.model.generation_config import GENERATION_CONFIG
from pythia_quant.model.source_name import DEMO, parse_model
from pythia_quant.model.tokenizer import TEMPLATES, TOKENIZER_FILES
from pythia_quant.model.weights import INDEX_SUFFIX, MERGE, PICKLE, SAFETENSORS, weight_file_names

_WEIGHTS = tuple(f"{name}{suffix}" for name in (SAFETENSORS, PICKLE) for suffix in ("", INDEX_SUFFIX))

_OPTIONAL = (MANIFEST, GENERATION_CONFIG, *TOKENIZER_FILES[1:])


@dataclass(frozen=True)
class Place:
    """A place that holds the files of a checkpoint.

    Attributes:
        model: the hub repository, the folder, or ``builtin:demo``.
        revision: the revision that the user named; ``local`` for a folder.
        commit: the hub's commit at that revision; None for a folder.
        folder: the folder that holds the files that are here.
        on_hub: the size of each file of the repository, bytes; None for a folder, and without a hub.
        progress: receives how much of a download has come.
    """

    model: str
    revision: str
    commit: str | None
    folder: Path
    on_hub: Mapping[str, int] | None = None
    progress: Progress = field(default=SILENT, compare=False)

    def get(self, name: str) -> Path | None:
        """Return the path of a file, which is downloaded if needed; None if the checkpoint does not have it.

        Raises:
            SourceError: the file is a link to elsewhere, a pointer of git-lfs, or cannot be downloaded.
        """
        # Without the hub, the cache has all the files that we can get.
        if self.commit is None or (self.on_hub is None and name in _OPTIONAL):
            return _local(self.folder, name)
        absent = self.on_hub is not None and name not in self.on_hub
        return None if absent else fetch(self.model, name, self.commit, progress=self.progress)

    def missing_bytes(self, names: Iterable[str]) -> int:
        """Return the bytes of those files that are still to be downloaded."""
        if self.commit is None or self.on_hub is None:
            return 0
        return sum(self.on_hub[name] for name in names if not is_cached(self.model, name, self.commit))

    def size(self, name: str) -> int:
        """Return the bytes of a file that is here or on the hub."""
        return self.on_hub[name] if self.on_hub is not None else (self.folder / name).stat().st_size

    def weight_names(self) -> list[str]:
        """Return the names of the files that hold the weights; no weights are downloaded.

        Raises:
            SourceError: there are none, or their index is damaged.
        """
        # Safetensors first: where both exist they hold the same tensors, and a pickle may run code when it is read.
        for single in (SAFETENSORS, PICKLE):
            if single in self.on_hub if self.on_hub is not None else self.get(single):
                return [single]
            if index := self.get(f"{single}{INDEX_SUFFIX}"):
                names = weight_file_names(index)
                for name in names:
                    if name not in self.on_hub if self.on_hub is not None else not self.get(name):
                        hint = "download it, or the whole model again"
                        raise SourceError(f"the shard {name} is missing", where=str(index), hint=hint)
                return names
        raise _no_weights(str(self.folder), self.names_here())

    def names_here(self) -> list[str]:
        """Return the names of what is in the folder."""
        return [path.name for path in self.folder.glob("*")]


def locate(model: str, revision: str, progress: Progress = SILENT) -> Place:
    """Find a checkpoint by the name that a user gives; of a repository, config.json and chat templates are downloaded.

    Args:
        model: a folder or a file in it, ``builtin:demo``, or a hub repository by name or address; see
            :func:`pythia_quant.model.source_name.parse_model`.
        revision: branch, tag or commit of a hub repository.
        progress: receives how much of a download has come, and what the user should know, such as that an old name was
            resolved.

    Raises:
        SourceError: there is no such checkpoint.
    """
    named = parse_model(model, revision)
    if named is None:
        if revision != "main":
            raise SourceError(f"is not a hub repository, so it has no revision {revision!r}", where=model)
        return Place(DEMO, "builtin", None, Path(str(files("pythia_quant") / "model" / "demo")))
    if isinstance(named, Path):
        return Place(str(named), "local", None, named)
    if named.revision and revision not in ("main", named.revision):
        raise SourceError(f"names the revision {named.revision!r}, and {revision!r} is asked for", where=model)
    revision = named.revision or revision
    repo_id, renamed = suite.resolve(named.repo_id)
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
    place = Place(repo_id, revision, commit_of(config), config.parent, file_sizes(repo_id, commit_of(config)), progress)
    if place.on_hub is not None and place.on_hub.keys().isdisjoint((MANIFEST, *_WEIGHTS)):
        raise _no_weights(f"{repo_id}@{revision}", place.on_hub)
    for name in place.on_hub or ():
        if re.fullmatch(rf"{TEMPLATES}/[\w.-]+\.jinja", name, re.ASCII):
            place.get(name)
    return place


def _local(folder: Path, name: str) -> Path | None:
    path = own_file(folder, name, SourceError)
    if path:
        refuse_pointer(path)
    return path


def _no_weights(where: str, names: Iterable[str]) -> SourceError:
    what, hint = recognize_files(names) or ("", "")
    neither = f"has neither {SAFETENSORS} nor {PICKLE}, in one file or in shards"
    return SourceError(f"{neither}: it {what}" if what else neither, where=where, hint=hint)


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
