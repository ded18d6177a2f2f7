"""The manifest, ``pythia_quant.json``: what an artifact is, what it was made from, and the hashes of its files."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    computed_field,
    model_validator,
)

from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.foreign_files import artifact_file_name
from pythia_quant.core.text import printable
from pythia_quant.records import sizes

MOST_BYTES = 50_000_000
"""Larger manifests are refused unread; that of the largest model has a hundredth of it."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

Count = Annotated[int, Field(ge=0, lt=2**63)]

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    """The base of the data that we write. An unknown field comes from a newer version and is refused, not dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")  # JSON has no infinity


class FileRecord(Record):
    """One file of an artifact."""

    bytes: Count
    sha256: Sha256


FileName = Annotated[str, AfterValidator(artifact_file_name)]
"""Path of a file relative to its artifact, with forward slashes."""


def _beside_each_other(files: dict[str, FileRecord]) -> dict[str, FileRecord]:
    """Refuse names that cannot stand beside each other: the same but for case, or a file where a folder is."""
    taken: set[str] = set()
    for name in files:
        if name.lower() in taken:
            raise ValueError(f"{name} is there twice, but for upper and lower case")
        taken.add(name.lower())
    for name in files:
        parts = name.lower().split("/")
        if any("/".join(parts[:end]) in taken for end in range(1, len(parts))):
            raise ValueError(f"{name} lies in what is a file")
    return files


class SourceRecord(Record):
    """The checkpoint. `commit` is None for a folder; `sha256` is of each weight file."""

    model: str
    revision: str
    commit: str | None
    sha256: dict[str, Sha256]
    parameters: Annotated[Count, Field(gt=0)]


class TextRecord(Record):
    """A text that was used, as UTF-8."""

    name: str
    sha256: str
    tokens: Count
    bytes: Count


class CalibrationRecord(Record):
    """The calibration windows; `None` in a manifest when the quantizer used none."""

    text: TextRecord
    windows: Count
    context: Count
    seed: int


class CheckRecord(Record):
    """What the check after conversion found, in a fresh process, on the probe tokens.

    Attributes:
        method: which check ran: of the whole model, or layer by layer where that may not fit in memory.
        max_weight_error: largest difference between the logits of the weights read back from disk and of the intended
            ones, both in fp32 arithmetic.
        runtime: what ran the artifact.
        run_error: difference between the runtime's logits and the intended ones, root-mean-square, relative.
        kl_as_run: mean KL divergence of the runtime's predictions from the intended ones, nats a token.
        generated: tokens generated greedily from the probe's start; none where the model was run layer by layer.
    """

    method: str
    max_weight_error: Finite
    runtime: str
    run_error: Finite
    kl_as_run: Finite
    generated: list[int]


class Manifest(Record):
    """Everything known about an artifact when it was made.

    Sizes are counted from `files`, whatever a manifest says of them: earlier ones have the bytes of all files, and the
    bits of tensors alone.
    """

    schema_version: Literal[1] = 1
    tool: str
    created: datetime
    variant: str
    settings: dict[str, Any]
    recipe_name: str
    recipe_id: str
    recipe: dict[str, Any]
    source: SourceRecord
    calibration: CalibrationRecord | None
    versions: dict[str, str]
    cpu: str
    notes: dict[str, Any]
    check: CheckRecord
    files: Annotated[dict[FileName, FileRecord], AfterValidator(_beside_each_other)]

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorator of properties
    @property
    def bytes_on_disk(self) -> int:
        """The bytes of the files that hold weights."""
        return sizes.of_weight_files({name: file.bytes for name, file in self.files.items()})

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bits_per_weight(self) -> float:
        """The bits of these files for each of the source's parameters."""
        return sizes.bits_per_weight(self.bytes_on_disk, self.source.parameters)

    @model_validator(mode="before")
    @classmethod
    def _without_sizes(cls, data: object) -> object:
        counted = ("bytes_on_disk", "bits_per_weight")
        return {key: data[key] for key in data if key not in counted} if isinstance(data, dict) else data


def read_manifest(path: Path, kind: type[PythiaQuantError], where: str = "") -> Manifest:
    """Read a manifest, which may come from anywhere.

    Args:
        path: an existing file.
        kind: the class of the error to raise.
        where: the place that messages name; by default the path.

    Raises:
        PythiaQuantError: of class `kind`; the file cannot be read, is no manifest, or was written by another version.
    """
    where = where or str(path)
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise kind(f"has {size / 1e6:,.0f} MB, too many for a manifest", where=where, hint=_ANEW)
        content = path.read_bytes()
    except OSError as error:
        raise kind(f"cannot be read ({error.strerror})", where=where, hint=_ANEW) from error
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:80] for part in first["loc"])
    what = f"cannot be read: {place} {first['msg']}" if place else f"cannot be read: {first['msg']}"
    raise kind(printable(what)[:500], where=where, hint=_what_to_do(content))


_ANEW = "it is damaged or was edited; convert or download it again"


def _what_to_do(content: bytes) -> str:
    """Name the version that wrote a manifest which this one does not understand, where it says so."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return _ANEW
    data = data if isinstance(data, dict) else {}
    tool, version = data.get("tool"), data.get("schema_version")
    if not isinstance(tool, str):
        newer = isinstance(version, int) and version > 1
        return "a newer pythia-quant may have written it: update, or convert again" if newer else _ANEW
    return f"{printable(tool)[:80]} wrote it; read it with that version, or convert again with this one"
