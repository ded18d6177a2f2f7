"""A checkpoint at rest: its configuration and tokenizer, the hashes of its weights, and one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pythia_quant.core.errors import SourceError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.foreign_files import MANIFEST, is_file_name, own_file, read_object
from pythia_quant.core.hub_files import check_download
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.core.text import printable
from pythia_quant.model import suite
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.config import read_config, unknown_fields
from pythia_quant.model.generation_config import GENERATION_CONFIG, read_model, read_settings, tokens_of_config
from pythia_quant.model.place import Place, locate, recognize_files
from pythia_quant.model.source_name import DEMO, folder_name
from pythia_quant.model.tokenizer import TEMPLATES, TOKENIZER, TOKENIZER_FILES, check_belongs, open_tokenizer
from pythia_quant.model.weights import WeightFiles


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint without its weights.

    Attributes:
        model: the hub repository, the folder, or ``builtin:demo``; :func:`open_source` takes it again.
        revision: the revision that the user named; ``local`` for a folder.
        commit: the hub's commit at that revision; None for a folder.
        folder: the folder that holds the files.
        architecture: the shape by config.json, with the special tokens that the model generates with.
        tokenizer: the tokenizer.
    """

    model: str
    revision: str
    commit: str | None
    folder: Path
    architecture: Architecture
    tokenizer: Tokenizer

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


@dataclass(frozen=True)
class Unread(Checkpoint):
    """A checkpoint whose weights were not read.

    Attributes:
        weight_bytes: the bytes of the files that hold the weights.
        missing_bytes: the bytes of these files that are still to be downloaded.
    """

    weight_bytes: int
    missing_bytes: int


@dataclass(frozen=True)
class Source(Checkpoint):
    """An opened checkpoint.

    Attributes:
        weights: the tensors; their architecture has the special tokens of config.json.
        sha256: the hex SHA-256 of each weight file, by the file's name.
        generation: the unchanged content of generation_config.json.
        unknown_fields: the fields of config.json that GPT-NeoX in transformers does not have.
    """

    weights: WeightFiles
    sha256: dict[str, str]
    generation: dict[str, Any] = field(default_factory=dict)
    unknown_fields: list[str] = field(default_factory=list)


def open_source(model: str, revision: str = "main", progress: Progress = SILENT) -> Source:
    """Open a checkpoint: hash its weight files and check every tensor's shape, without loading a tensor.

    Args:
        model: the name of the checkpoint, see :func:`~pythia_quant.model.place.locate`.
        revision: branch, tag or commit of a hub repository.
        progress: receives how much of a download has come, and what the user should know, such as that an old name was
            resolved.

    Raises:
        SourceError: the checkpoint is missing, damaged, or not a GPT-NeoX that we handle.
    """
    return open_place(locate(model, revision, progress), progress)


def open_place(place: Place, progress: Progress = SILENT) -> Source:
    """Open a checkpoint that was located before; for errors see :func:`open_source`."""
    checkpoint, unknown = _read(place, progress)
    paths = _weight_files(place)
    own = read_config(place.folder / "config.json")
    weights = WeightFiles(paths, replace(own, tokens=tokens_of_config(own.tokens, checkpoint.architecture.tokens)))
    digests = {path.name: sha256_if_changed(path) for path in paths}
    if place.commit:
        for path in paths:
            check_download(path, digests[path.name])
    return Source(
        **vars(checkpoint),
        weights=weights,
        sha256=digests,
        generation=read_settings(place.folder),
        unknown_fields=unknown,
    )


def open_without_weights(model: str, revision: str = "main", progress: Progress = SILENT) -> Unread:
    """Open a checkpoint without reading its weights, which are not downloaded either.

    For the arguments and errors see :func:`open_source`.
    """
    place = locate(model, revision, progress)
    checkpoint, _ = _read(place, progress)
    names = place.weight_names()
    return Unread(
        **vars(checkpoint), weight_bytes=sum(map(place.size, names)), missing_bytes=place.missing_bytes(names)
    )


def open_weights(folder: Path) -> WeightFiles:
    """Open the weights of a folder that :func:`open_source` has opened before, without hashing them again.

    Raises:
        SourceError: the weights are missing or damaged.
    """
    return WeightFiles(_weight_files(Place(str(folder), "local", None, folder)), read_config(folder / "config.json"))


def _weight_files(place: Place) -> list[Path]:
    return [path for name in place.weight_names() if (path := place.get(name))]


def _read(place: Place, progress: Progress) -> tuple[Checkpoint, list[str]]:
    """Read configuration and tokenizer; return also the fields of config.json that say nothing to GPT-NeoX."""
    if place.get(MANIFEST) is not None:
        raise SourceError(
            "is an artifact of ours, quantized already",
            where=str(place.folder),
            hint="bench, verify and generate take it; to quantize, give the checkpoint that it was made from",
        )
    config = place.get("config.json")
    if config is None:
        what, hint = recognize_files(place.names_here()) or ("", "give a folder as the hub serves it")
        raise SourceError("has no config.json" + (f": it {what}" if what else ""), where=str(place.folder), hint=hint)
    place.get(GENERATION_CONFIG)
    architecture = read_model(place.folder, progress)
    unknown = unknown_fields(read_object(config, SourceError))
    if unknown:
        names = printable(", ".join(unknown))
        what = "has fields that say nothing to GPT-NeoX in transformers, and are not used"
        progress.notice(f"config.json {what}: {names[:500]}")
    member = suite.find(place.model)
    if member and (member.size.width, member.size.layers) != (architecture.width, architecture.layers):
        raise SourceError(f"is not the shape of {member.repo_id}", where=str(config))
    tokenizer = _tokenizer(place, architecture, progress)
    return Checkpoint(place.model, place.revision, place.commit, place.folder, architecture, tokenizer), unknown


def _tokenizer(place: Place, architecture: Architecture, progress: Progress) -> Tokenizer:
    files = [place.get(name) for name in TOKENIZER_FILES]
    if files[0] is None:
        raise SourceError(
            f"has no {TOKENIZER}",
            where=str(place.folder),
            hint="every Pythia repository has one: copy it here; of other files transformers makes one: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )
    tokenizer = open_tokenizer(files[0], architecture.vocabulary, progress=progress)
    check_belongs(tokenizer, place.folder, architecture.tokens, progress)
    return tokenizer


def companions(folder: Path) -> list[str]:
    """Return the names of a checkpoint's tokenizer files and chat templates, relative to its folder."""
    templates = sorted(f"{TEMPLATES}/{path.name}" for path in (folder / TEMPLATES).glob("*.jinja"))
    names = [*TOKENIZER_FILES, *filter(is_file_name, templates)]
    return [name for name in names if own_file(folder, name, SourceError)]
