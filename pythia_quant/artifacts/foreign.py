"""Open what others made of a source: recognize it, check it in a process of its own, and compare its tokenizer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pythia_quant.core import process
from pythia_quant.core.errors import ArtifactError, BenchmarkError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.foreign_files import COMMIT, own_file, snapshot_of
from pythia_quant.core.text import short
from pythia_quant.formats.foreign import Encode, Finding, encode_with, root_of
from pythia_quant.formats.packages import refuse_missing
from pythia_quant.formats.table import FOREIGN, foreign_kind, missing_packages, recognize
from pythia_quant.model.generation_config import read_model
from pythia_quant.model.source import Checkpoint
from pythia_quant.model.source_name import SCHEME, folder_name
from pythia_quant.model.tokenizer import END_OF_TEXT, TOKENIZER, open_tokenizer
from pythia_quant.recipe.recipe import SOURCE_ROWS
from pythia_quant.records.manifest import FileRecord
from pythia_quant.records.results import Foreign

UNPROVEN = "not ours: others made it, and nothing proves the integrity of its files"
"""What is said of every row that measures what others made."""
_LONGEST_NAME = 64
_WINDOWS = 64
"""The windows of the evaluation text on which the tokenizers are compared."""
_PROBES = (
    "Hello, world! It's 3.14159 & 2,718 – naïve café, Straße, œuvre.",
    "def f(x):\n\treturn [x ** 2  for x in range(10)]\n\n\n    # twelve            blanks\r\n",
    "Привет мир, γειά σου, שלום עולם, مرحبا, नमस्ते दुनिया, สวัสดี, 你好，世界, こんにちは, 안녕하세요",
    "🙂👩‍👩‍👧‍👦 \u00a0\u2009\u3000 \u200b a\u0301 á \ufb01 ½ ①",
    "http://a.b/c?d=e#f {\"key\": [null, -1e-7]} <tag attr='x'/> $x_1^2$ \\alpha ~~ ``` ||| @@",
)


@dataclass(frozen=True)
class ForeignArtifact:
    """What others made of a source, after it was checked.

    Attributes:
        path: the folder or the file.
        place: as the user named it.
        commit: the commit of a repository of a hub; None for what is on this machine.
        name: the name of its row.
        kind: the name of its kind in the table of kinds.
        finding: what it is.
        tokenizer: whether it has a tokenizer, which encodes as the source's does, or the source's is used.
        files: the size and hash of each file that holds weights, by its path in the artifact.
    """

    path: Path
    place: str
    commit: str | None
    name: str
    kind: str
    finding: Finding
    tokenizer: Literal["own", "source"]
    files: dict[str, FileRecord]

    @property
    def like(self) -> str:
        """The format of ours that takes about as long."""
        return FOREIGN[self.kind].like

    @property
    def quantized(self) -> bool:
        """Whether a weight has fewer than 16 bits."""
        return self.finding.quantized

    @property
    def memory_bytes(self) -> int:
        """About the bytes that the weights take in the runtime's memory."""
        return self.finding.memory_bytes

    @property
    def disk_bytes(self) -> int:
        """The bytes of the files that hold weights."""
        return sum(file.bytes for file in self.files.values())

    def notes(self) -> list[str]:
        """Return sentences that a reader of the row's numbers should know."""
        without = ["it has no tokenizer.json: the source's tokenizer was used"] if self.tokenizer == "source" else []
        return [f"{UNPROVEN} ({self.finding.stored})", *without, *self.finding.notes]

    def record(self) -> Foreign:
        """Return what a result file records of it."""
        return Foreign(
            kind=self.kind,
            place=self.place,
            commit=self.commit,
            stored=self.finding.stored,
            tokenizer=self.tokenizer,
            files={name: file.sha256 for name, file in self.files.items()},
        )


def open_foreign(
    place: str, path: Path, source: Checkpoint, windows: Sequence[Sequence[int]], worker: process.Worker | process.Here
) -> ForeignArtifact:
    """Recognize and check what others made of a source.

    Files are parsed in the worker's process: one that makes a library crash ends that process, not this one.

    Args:
        place: as the user named it.
        path: the folder or file on this machine.
        source: the source that it is said to be made of.
        windows: token ids of the evaluation text, on whose text the tokenizers are compared.
        worker: runs the checks.

    Raises:
        ArtifactError: it is of no kind that is measured, damaged, of another shape or tokenizer than the source, or a
            package that it needs is not installed.
        SourceError: its ``config.json`` is not that of a GPT-NeoX.
    """
    kind = recognize(path)
    if kind is None:
        raise unknown_kind(path)
    name = row_name(place, path)
    refuse_missing({name: missing} if (missing := [one for one in kind.needs if missing_packages(one)]) else {})
    arguments = {
        "path": str(path),
        "kind": kind.name,
        "source": str(source.folder),
        "windows": [list(map(int, window)) for window in windows[:_WINDOWS]],
    }
    try:
        found = worker.call(inspect_foreign, arguments)
    except BenchmarkError as error:
        what = f"a library fails on it: {error.what}"
        raise ArtifactError(what, where=str(path), hint="it is damaged or altered: download it again") from error
    finding, files = Finding(**found["finding"]), {}
    for file in finding.files:
        if (own := own_file(root_of(path), file, ArtifactError)) is None:
            raise ArtifactError(f"the file {file} is missing", where=str(path), hint="download it again")
        files[file] = FileRecord(bytes=own.stat().st_size, sha256=sha256_if_changed(own))
    return ForeignArtifact(path, place, _commit(place, path), name, kind.name, finding, found["tokenizer"], files)


def _commit(place: str, path: Path) -> str | None:
    """Return the commit of what came from a hub, which is a folder of its path in the cache."""
    if not place.startswith(SCHEME) and snapshot_of(path.absolute()) is None:
        return None
    return next((part for part in path.absolute().parts if COMMIT.fullmatch(part)), None)


def unknown_kind(path: Path) -> ArtifactError:
    """Return the error for a folder or file that is neither an artifact of ours nor of any kind that others make."""
    what = "there is no such file or folder"
    if path.exists():
        what = f"is neither an artifact of ours nor what others make in a way that is known here: {', '.join(FOREIGN)}"
    return ArtifactError(
        what, where=str(path), hint="give the folder of an artifact, or a checkpoint's as the hub has it"
    )


def row_name(place: str, path: Path) -> str:
    """Return the name of a row: the artifact's own, as far as it can also be the name of a file.

    It is that of the repository or folder; that of a file that says more follows, or stands alone.
    """
    root, stem = root_of(path), path.stem if path.is_file() else ""
    folder = place.removeprefix(SCHEME).partition("@")[0].split("/") if place.startswith(SCHEME) else []
    parts = [folder[1] if len(folder) > 1 else folder_name(root.absolute()), "" if stem == "model" else stem]
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(filter(None, parts))).strip("-._")
    name = plain[:_LONGEST_NAME].rstrip("-._") or "unnamed"
    return f"{name}-of-others"[-_LONGEST_NAME:] if name in SOURCE_ROWS else name


def inspect_foreign(path: str, kind: str, source: str, windows: list[list[int]]) -> dict[str, Any]:
    """Check a foreign artifact against its source; nothing of it is run.

    Args:
        path: the folder or file.
        kind: the name of its kind.
        source: the source's folder.
        windows: token ids of the evaluation text.

    Returns:
        ``finding``, a :class:`~pythia_quant.formats.foreign.Finding` as data, and ``tokenizer``: ``own`` or ``source``.

    Raises:
        ArtifactError: it is damaged, or of another shape or tokenizer.
    """
    opener, folder = foreign_kind(kind), Path(source)
    shape = read_model(folder)
    finding = opener.inspect(Path(path), shape)
    own = opener.encoder(Path(path), shape.vocabulary)
    if own is not None:
        tokenizer = open_tokenizer(folder / TOKENIZER, shape.vocabulary)
        texts = [*_PROBES, f"a{END_OF_TEXT}b", *(tokenizer.decode(ids, skip_special_tokens=False) for ids in windows)]
        if not opener.normalizes:
            texts = [unicodedata.normalize("NFC", text) for text in texts]
        _check_tokenizer(own, encode_with(tokenizer), texts, path)
    return {"finding": asdict(finding), "tokenizer": "source" if own is None else "own"}


def _check_tokenizer(own: Encode, source: Encode, texts: list[str], where: str) -> None:
    for text in texts:
        ids, expected = own(text), source(text)
        if ids == expected:
            continue
        place = next((i for i, (one, other) in enumerate(zip(ids, expected, strict=False)) if one != other), 0)
        raise ArtifactError(
            f"its tokenizer is not the source's: of {short(text, 60)} token {place} is {ids[place : place + 1]}, the "
            f"source's {expected[place : place + 1]}; {len(ids)} tokens, and {len(expected)}",
            where=where,
            hint="name with --source the model that it was made from",
        )
