"""The manifest, ``pythia_quant.json``: what an artifact is, what it was made from, and the hash of its every file."""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

MANIFEST = "pythia_quant.json"
DEMO = "builtin:demo"
"""The model that ships with the package, as a source's name."""


class Record(BaseModel):
    """Data we write ourselves: unknown fields come from a newer version and are refused, not dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")  # JSON has no infinity


class FileRecord(Record):
    """One file of an artifact."""

    bytes: int
    sha256: str


def _inside(name: str) -> str:
    """Refuse what does not stay in the artifact's folder on every system: a manifest may come from a hub."""
    parts = PurePosixPath(name).parts
    if not parts or name != "/".join(parts) or ".." in parts or any(sign in name for sign in '\\:\0"<>|?*\n'):
        raise ValueError("is no path within the artifact")
    return name


FileName = Annotated[str, AfterValidator(_inside)]
"""Path of a file relative to its artifact, with forward slashes."""


class SourceRecord(Record):
    """The checkpoint. `commit` is None for a folder; `sha256` is of each weight file."""

    model: str
    revision: str
    commit: str | None
    sha256: dict[str, str]
    parameters: int


class TextRecord(Record):
    """A text that was used, as UTF-8."""

    name: str
    sha256: str
    tokens: int
    bytes: int


class CalibrationRecord(Record):
    """The calibration windows; `None` in a manifest when the quantizer used none."""

    text: TextRecord
    windows: int
    context: int
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
    max_weight_error: float
    runtime: str
    run_error: float
    kl_as_run: float
    generated: list[int]


class Manifest(Record):
    """Everything known about an artifact when it was made."""

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
    bits_per_weight: float
    bytes_on_disk: int
    versions: dict[str, str]
    cpu: str
    notes: dict[str, Any]
    check: CheckRecord
    files: dict[FileName, FileRecord]
