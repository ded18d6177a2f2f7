"""Open an artifact, and compare its files with its manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.foreign_files import ADDED, MANIFEST, own_file
from pythia_quant.core.settings import VariantSettings
from pythia_quant.core.text import printable
from pythia_quant.recipe.recipe import Recipe, RecipeSettings, with_absolute_files
from pythia_quant.recipe.variants import parse_variant
from pythia_quant.records.manifest import FileRecord, Manifest, read_manifest

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from pythia_quant.runtimes.protocol import Runtime

# ruff: noqa: PLC0415 - torch takes seconds to import, and only running an artifact needs it


@dataclass(frozen=True, repr=False)
class Artifact:
    """An artifact whose manifest was read. The model is loaded when it is first run, and then stays in memory.

    Attributes:
        folder: the artifact's folder.
        manifest: its manifest.
        settings: the settings of its variant, as the manifest records them.
    """

    folder: Path
    manifest: Manifest
    settings: VariantSettings

    def generate(
        self,
        prompt: str,
        max_new_tokens: int = 64,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> str:
        """Return the text that the model adds to `prompt`, as the command ``generate`` computes it.

        Args:
            prompt: the text to continue.
            max_new_tokens: the most tokens to add.
            temperature: 0 to take the most likely token; above 0 to sample.
            top_k: sample among so many of the most likely tokens; 0 for all.
            top_p: sample among the most likely tokens whose probabilities first add up to this.
            seed: the seed of the sampling.
            stop: texts at the first of which the result ends, without it.

        Raises:
            ArgumentError: a setting of the sampling is out of range.
            ArtifactError: the artifact is damaged, or prompt and continuation exceed the model's context.
            BenchmarkError: logits are not finite.
            CorpusError: the prompt is not UTF-8, or it is empty and the model has no token to begin with.
        """
        parts = self.stream(
            prompt, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop
        )
        return "".join(parts)

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 64,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Return the text of :meth:`generate` in parts, as they are made. Run nothing else with it until the end.

        Raises:
            PythiaQuantError: as :meth:`generate`.
        """
        from pythia_quant.artifacts.generate import stream_text
        from pythia_quant.artifacts.pieces import Wish
        from pythia_quant.runtimes.sampling import Sampling

        sampling = Sampling(temperature, top_k, top_p, seed)
        return stream_text(self, prompt, Wish(max_new_tokens, sampling, _strings(stop)))

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits of all positions, fp32 [windows, tokens, vocabulary].

        Args:
            ids: the tokens, int64 [windows, tokens]; see :meth:`encode`.

        Raises:
            ArgumentError: `ids` is of another shape or dtype, or longer than the model's context, or one of them is no
                token of the model.
            ArtifactError: the artifact is damaged.
        """
        from pythia_quant.artifacts.generate import check_ids

        check_ids(ids, self.folder)
        return self.runtime.logits(ids)

    def encode(self, text: str) -> Tensor:
        """Return a text as one window of tokens, int64 [1, tokens], for :meth:`logits`.

        Raises:
            ArtifactError: the tokenizer is damaged.
            CorpusError: the text is not UTF-8.
        """
        import torch

        from pythia_quant.model.tokenizer import tokenize

        return torch.tensor([tokenize(self.tokenizer, text).ids], dtype=torch.int64)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer, of the package ``tokenizers``; ``tokenizer.decode(ids)`` makes text of tokens."""
        from pythia_quant.model.generation_config import read_model
        from pythia_quant.model.tokenizer import TOKENIZER, open_tokenizer

        vocabulary = read_model(self.folder, quantized=True).vocabulary
        return open_tokenizer(self.folder / TOKENIZER, vocabulary, ArtifactError)

    @cached_property
    def runtime(self) -> Runtime:
        """The model, loaded into the runtime that ``bench`` measures, on all processors of this process."""
        from pythia_quant.core.machine import bound_torch, cores
        from pythia_quant.formats.table import format_of

        bound_torch()
        entry = format_of(self.settings)
        entry.try_elsewhere(self.folder)
        return entry.open_runtime(self.folder, cores())

    def __repr__(self) -> str:
        return f"Artifact({str(self.folder)!r}: {', '.join(self._facts().values())})"

    def _repr_html_(self) -> str:
        facts = {"folder": str(self.folder), **self._facts()}
        rows = "".join(
            f"<tr><th>{escape(key)}</th><td>{escape(printable(fact))}</td></tr>" for key, fact in facts.items()
        )
        return f"<table>{rows}</table>"

    def _facts(self) -> dict[str, str]:
        manifest = self.manifest
        return {
            "variant": f"{manifest.variant} ({self.settings.format})",
            "source": f"{manifest.source.model} at {manifest.source.revision}",
            "size": f"{manifest.bits_per_weight:.2f} bits a weight, {manifest.bytes_on_disk / 1e6:,.1f} MB",
        }

    def recipe(self) -> Recipe:
        """Return the recipe that the artifact was made by, as its manifest records it.

        Raises:
            ArtifactError: this version cannot read the recipe, or the recipe lacks the artifact's variant.
        """
        where = str(self.folder / MANIFEST)
        try:
            settings = RecipeSettings.model_validate(self.manifest.recipe)
        except ValidationError as error:
            raise ArtifactError(
                f"its recipe cannot be read: {_first(error)}",
                where=where,
                hint=f"{printable(self.manifest.tool)} wrote it; convert again, or use that version",
            ) from error
        if settings.variants.get(self.manifest.variant) != self.settings:
            raise ArtifactError(
                f"its recipe has no variant {self.manifest.variant!r} with its settings",
                where=where,
                hint="it was edited; convert or download it again",
            )
        return Recipe(self.manifest.recipe_name, self.folder / MANIFEST, with_absolute_files(settings, self.folder))


def _strings(stop: Sequence[str]) -> tuple[str, ...]:
    """Return stop strings as a tuple; one string is one of them, not its letters."""
    return (stop,) if isinstance(stop, str) or not isinstance(stop, Iterable) else tuple(stop)


def open_artifact(folder: str | Path) -> Artifact:
    """Read an artifact's manifest. :func:`verify_files` compares the files with it.

    Raises:
        ArtifactError: there is no manifest, or this version cannot read it.
    """
    folder = Path(folder)
    path = own_file(folder, MANIFEST, ArtifactError)
    if path is None:
        raise ArtifactError(
            f"there is no {MANIFEST}, so this is no artifact of ours", where=str(folder), hint="give a variant's folder"
        )
    manifest = read_manifest(path, ArtifactError)
    try:
        settings = parse_variant(manifest.settings)
    except ValidationError as error:
        raise ArtifactError(
            f"its settings cannot be read: {_first(error)}",
            where=str(path),
            hint=f"{printable(manifest.tool)} wrote it; convert again, or use that version",
        ) from error
    return Artifact(folder, manifest, settings)


def artifact_folders(folder: Path) -> list[Path]:
    """Return the folders below a folder, or the folder itself, that have a manifest; hidden ones are left out."""
    return sorted(
        path.parent
        for path in folder.rglob(MANIFEST)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def artifacts_below(folder: Path) -> list[Path]:
    """Return :func:`artifact_folders` of a folder.

    Raises:
        ArtifactError: there is none.
    """
    folders = artifact_folders(folder)
    if not folders:
        what = "there is no artifact in it or below it" if folder.is_dir() else "there is no such folder"
        raise ArtifactError(what, where=str(folder), hint="`pythia-quant convert` makes artifacts")
    return folders


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return printable(f"{'.'.join(map(str, first['loc']))} {first['msg']}")[:300]


def hash_files(folder: Path, digest: Callable[[Path], str] = sha256) -> dict[str, FileRecord]:
    """Return the size and SHA-256 of every file below `folder`, the manifest excepted, by relative path.

    Args:
        folder: an artifact's folder.
        digest: returns the SHA-256 of a file; by default it reads the file.

    Raises:
        ArtifactError: the folder holds an empty folder, a link to a folder, or a link that leads out of it.
    """
    files = {}
    try:
        for path in _entries(folder):
            name = path.relative_to(folder).as_posix()
            if path.is_dir():
                what = "a link to a folder" if path.is_symlink() else "an empty folder"
                raise ArtifactError(f"{name} is {what}", where=str(folder), hint="an artifact is files; remove it")
            if name != MANIFEST and own_file(folder, name, ArtifactError):
                files[name] = FileRecord(bytes=path.stat().st_size, sha256=digest(path))
    except OSError as error:
        raise ArtifactError(f"{error.filename} cannot be read ({error.strerror})", where=str(folder)) from error
    return files


def _entries(folder: Path) -> Iterator[Path]:
    """Yield every file, link and empty folder below a folder. Links to folders are not followed."""
    paths = sorted(folder.iterdir())
    while paths:
        path = paths.pop(0)
        children = sorted(path.iterdir()) if path.is_dir() and not path.is_symlink() else []
        paths = children + paths
        if not children:
            yield path


PUBLISHED = ("README.md", "results.json", "recipe.yaml", ".eval_results/lambada.yaml", ".gitattributes")
"""Files of a published repository that are not part of an artifact: no runtime reads them."""
_UNLISTED = (*PUBLISHED, *ADDED)
_DOWNLOADED = ".cache/huggingface/"  # of the hub's client
_AGAIN = "convert or download it again"


def check_sizes(artifact: Artifact) -> None:
    """Compare the sizes of an artifact's files with its manifest, which takes no time; see :func:`verify_files`.

    Raises:
        ArtifactError: a file is missing, or of another size.
    """
    for name, listed in sorted(artifact.manifest.files.items()):
        path = own_file(artifact.folder, name, ArtifactError)
        if path is None:
            raise ArtifactError(f"the file {name} is missing", where=str(artifact.folder), hint=_AGAIN)
        if (size := path.stat().st_size) != listed.bytes:
            what = f"the file {name} has {size} bytes, not {listed.bytes}"
            raise ArtifactError(what, where=str(artifact.folder), hint=_AGAIN)


def verify_files(artifact: Artifact, digest: Callable[[Path], str] = sha256) -> None:
    """Compare an artifact's files with its manifest. What a hub or a signer adds is ignored.

    Args:
        artifact: the artifact.
        digest: see :func:`hash_files`.

    Raises:
        ArtifactError: a file is missing, altered, or not in the manifest.
    """
    present, listed = hash_files(artifact.folder, digest), artifact.manifest.files
    where = str(artifact.folder)
    for name in sorted(listed.keys() | present.keys()):
        if name not in present:
            raise ArtifactError(f"the file {name} is missing", where=where, hint=_AGAIN)
        if name not in listed and name not in _UNLISTED and not name.startswith(_DOWNLOADED):
            raise ArtifactError(f"the file {name} is not in the manifest", where=where, hint="move it elsewhere")
        if name in listed and present[name] != listed[name]:
            raise ArtifactError(f"the file {name} was changed since the conversion", where=where, hint=_AGAIN)
