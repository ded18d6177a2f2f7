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
    field_validator,
    model_validator,
)

from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.foreign_files import artifact_file_name
from pythia_quant.core.text import printable
from pythia_quant.records import sizes

MOST_BYTES = 50_000_000
"""The bytes of the largest manifest that is read; the manifest of the largest model has a hundredth of it."""

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
"""The path of a file relative to its artifact, with forward slashes."""


def _beside_each_other(files: dict[str, FileRecord]) -> dict[str, FileRecord]:
    """Refuse names that cannot stand in one folder: names that differ only in case, or a file's as a folder's."""
    lower_names: set[str] = set()
    for name in files:
        if name.lower() in lower_names:
            raise ValueError(f"{name} is there twice, but for upper and lower case")
        lower_names.add(name.lower())
    for name in files:
        parts = name.lower().split("/")
        if any("/".join(parts[:end]) in lower_names for end in range(1, len(parts))):
            raise ValueError(f"{name} lies in what is a file")
    return files


class SourceRecord(Record):
    """The source.

    Attributes:
        model: the repository, the folder, or ``builtin:demo``.
        revision: the revision that the user named; ``local`` for a folder.
        commit: the hub's commit at that revision; None for a folder.
        sha256: the hex SHA-256 of each weight file, by the file's name.
        parameters: the number of parameters.
    """

    model: str
    revision: str
    commit: str | None
    sha256: dict[str, Sha256]
    parameters: Annotated[Count, Field(gt=0)]


class TextRecord(Record):
    """A text: its name, the hex SHA-256 and the bytes of its UTF-8, and its tokens."""

    name: str
    sha256: str
    tokens: Count
    bytes: Count


class CalibrationRecord(Record):
    """The text that calibration windows were drawn from, how many of how many tokens, and the seed of the draw."""

    text: TextRecord
    windows: Count
    context: Count
    seed: int


class CheckRecord(Record):
    """The result of the check after a conversion: the artifact is read back and run on the probe tokens.

    "Intended" are the logits of the weights that the writer meant to store, computed in fp32 before they were stored.

    Attributes:
        method: how the check ran: on the whole model, or layer by layer if the model might not fit in memory.
        max_weight_error: the largest difference between the intended logits and those of the weights on disk, computed
            in fp32, relative to the largest intended logit.
        runtime: the description of the runtime.
        run_error: the relative root-mean-square difference between the intended logits and the runtime's.
        kl_as_run: the mean KL divergence of the runtime's predictions from the intended ones, nats a token.
        generated: tokens that the runtime generated greedily from half a probe window; none if it ran layer by layer.
    """

    method: str
    max_weight_error: Finite
    runtime: str
    run_error: Finite
    kl_as_run: Finite
    generated: list[int]


_NEW_SETTINGS = {"bnb": "equalize", "onnx": "adapt"}
"""By format, a setting that is true by default and that older versions did not have: they did what false means."""


def _as_before(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as the version meant them that wrote them."""
    new = _NEW_SETTINGS.get(str(settings.get("format")))
    return {new: False, **settings} if new else settings


class Manifest(Record):
    """Everything that is known of an artifact when it is made.

    Sizes are always counted from `files`. The sizes that a manifest itself records are not read: older versions counted
    the bytes of all files, and the bits of tensors alone.
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

    @field_validator("settings", mode="after")
    @classmethod
    def _of_older_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        return _as_before(settings)

    @field_validator("recipe", mode="after")
    @classmethod
    def _of_older_recipes(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        variants = recipe.get("variants")
        if not isinstance(variants, dict):
            return recipe
        known = {name: _as_before(variant) for name, variant in variants.items() if isinstance(variant, dict)}
        return recipe | {"variants": variants | known}

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorator of properties
    @property
    def bytes_on_disk(self) -> int:
        """The bytes of the files that hold weights."""
        return sizes.of_weight_files({name: file.bytes for name, file in self.files.items()})

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bits_per_weight(self) -> float:
        """The bits of these files, divided by the number of the source's parameters."""
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
    """Return a hint for a manifest that this version cannot read; it names the version that wrote it, if known."""
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
