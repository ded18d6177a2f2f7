"""The ``config.json`` of an artifact: what we write and nothing else, because other programs obey what stands in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.foreign_files import own_file, read_object
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.config import parse_config, unknown_fields

NAME = "config.json"
AGAIN = "the artifact is damaged: convert or download it again"


class ArtifactConfig(NamedTuple):
    """What an artifact's config.json says.

    Attributes:
        architecture: the model's shape.
        dtype: of what is stored unquantized, by its name in torch.
        quantization: the object under ``quantization_config``; empty where there is none.
    """

    architecture: Architecture
    dtype: str
    quantization: dict[str, Any]


def read_artifact_config(folder: Path) -> ArtifactConfig:
    """Read an artifact's config.json.

    Raises:
        ArtifactError: it is missing, no JSON, or has a field that we do not write, such as one that names other code.
        SourceError: it is not that of a GPT-NeoX that we handle.
    """
    path = own_file(folder, NAME, ArtifactError)
    if path is None:
        raise ArtifactError(f"has no {NAME}", where=str(folder), hint=AGAIN)
    fields = read_object(path, ArtifactError, AGAIN)
    if unknown := unknown_fields(fields):
        raise ArtifactError(f"has the field {unknown[0]!r:.80}, which we do not write", where=str(path), hint=AGAIN)
    quantization = fields.pop("quantization_config", None)
    if not isinstance(quantization, dict | None):
        raise ArtifactError("quantization_config is no object", where=str(path), hint=AGAIN)
    architecture = parse_config(fields, str(path))
    if architecture.tied or not architecture.attention_biases:
        what = "says that embeddings are tied, or attention has no biases: an artifact has both in any case"
        raise ArtifactError(what, where=str(path), hint=AGAIN)
    dtype = fields.get("dtype")
    if dtype not in ("float16", "bfloat16", "float32"):
        what = f"dtype is {dtype!r:.80}; float16, bfloat16 or float32 is needed"
        raise ArtifactError(what, where=str(path), hint=AGAIN)
    return ArtifactConfig(architecture, dtype, quantization or {})
