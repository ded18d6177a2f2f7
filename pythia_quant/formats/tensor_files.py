"""What every reader checks first: an artifact's ``config.json``, and the tensors in its safetensors files.

An artifact may come from anywhere, and other programs obey its ``config.json``: only fields that we write are accepted.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pythia_quant.core.errors import ArtifactError, SourceError
from pythia_quant.core.foreign_files import own_file, read_object
from pythia_quant.model.architecture import EMBEDDING, Architecture
from pythia_quant.model.config import parse_config, unknown_fields
from pythia_quant.model.weights import INDEX_SUFFIX, SAFETENSORS, all_finite, weight_file_names

NAME = "config.json"

AGAIN = "the artifact is damaged: convert or download it again"


class ArtifactConfig(NamedTuple):
    """What an artifact's config.json says.

    Attributes:
        architecture: the model's shape.
        dtype: the dtype of the unquantized tensors, by its name in torch.
        quantization: the object under ``quantization_config``; empty if there is none.
    """

    architecture: Architecture
    dtype: str
    quantization: dict[str, Any]


def read_artifact_config(folder: Path) -> ArtifactConfig:
    """Read an artifact's config.json.

    Raises:
        ArtifactError: the file is missing or no JSON, or has a field that we do not write, such as one that names code.
        SourceError: the file does not describe a GPT-NeoX that we handle.
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


WIDTHS = {"U8": 1, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8}
"""The bytes of a value of each dtype that our artifacts have, by safetensors' names."""


class StoredTensor(NamedTuple):
    """Where a tensor is stored, and as what.

    Attributes:
        file: the file that holds the tensor.
        dtype: the dtype by safetensors' name, such as ``F16``.
        shape: the tensor's shape.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]


def list_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a folder's safetensors files by their names; none is loaded.

    Raises:
        ArtifactError: a file is missing or damaged, or two files hold a tensor of the same name.
    """
    try:
        index = own_file(folder, f"{SAFETENSORS}{INDEX_SUFFIX}", ArtifactError)
        names = weight_file_names(index) if index else [SAFETENSORS]
    except SourceError as error:
        raise ArtifactError(error.what, where=error.where, hint=AGAIN) from error
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        file = own_file(folder, name, ArtifactError)
        if file is None:
            raise ArtifactError(f"{name} is missing", where=str(folder), hint=AGAIN)
        for tensor, stored in stored_tensors(file).items():
            if tensor in tensors:
                raise ArtifactError(
                    f"{tensor:.200} is in {tensors[tensor].file.name}, too", where=str(file), hint=AGAIN
                )
            tensors[tensor] = stored
    return tensors


def stored_tensors(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file by their names; none is loaded.

    Raises:
        ArtifactError: the file is damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: StoredTensor(file, part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()
            }
    except (SafetensorError, OSError, ValueError, TypeError, OverflowError) as error:
        raise ArtifactError(f"cannot be read ({error})"[:300], where=str(file), hint=AGAIN) from error


def streamed_bytes(folder: Path) -> int:
    """Return the bytes of weights that a runtime reads to decode a token: all safetensors but the embeddings.

    Raises:
        ArtifactError: a file is missing or damaged, or a tensor has a dtype that we do not write.
    """
    total = 0
    for name, stored in list_tensors(folder).items():
        if stored.dtype not in WIDTHS:
            what = f"{name:.200} is {stored.dtype}, which we do not write"
            raise ArtifactError(what, where=str(stored.file), hint=AGAIN)
        total += WIDTHS[stored.dtype] * math.prod(stored.shape) * (name != EMBEDDING)
    return total


def check_tensors(
    tensors: dict[str, StoredTensor], expected: dict[str, tuple[str, tuple[int, ...]]], folder: Path
) -> None:
    """Compare the tensors of an artifact with the expected ones.

    Args:
        tensors: the stored tensors, see :func:`list_tensors`.
        expected: the dtype and shape of each expected tensor by its name.
        folder: the artifact's folder.

    Raises:
        ArtifactError: a tensor is missing, has another dtype or shape, or is not expected.
    """
    for name, (dtype, shape) in expected.items():
        if name not in tensors:
            raise ArtifactError(f"the tensor {name} is missing", where=str(folder), hint=AGAIN)
        stored = tensors[name]
        if (stored.dtype, stored.shape) != (dtype, shape):
            raise ArtifactError(
                f"{name} is {stored.dtype} {list(stored.shape)!s:.80}; {dtype} {list(shape)} is expected",
                where=str(stored.file),
                hint="weights and config.json do not belong together",
            )
    for name in tensors.keys() - expected.keys():
        where = str(tensors[name].file)
        raise ArtifactError(f"the tensor {name!r:.200} does not belong there", where=where, hint=AGAIN)


def check_finite(name: str, tensor: Tensor, file: Path) -> None:
    """Refuse a tensor with a value that is not finite; `file` is the file that holds it.

    Raises:
        ArtifactError: a value is not finite.
    """
    if tensor.is_floating_point() and not all_finite(tensor):
        raise ArtifactError(f"{name} holds values that are not finite", where=str(file), hint=AGAIN)


def read_tensor(name: str, stored: StoredTensor) -> Tensor:
    """Read a tensor as it is stored.

    Raises:
        ArtifactError: a value is not finite.
    """
    with safe_open(stored.file, framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    check_finite(name, tensor, stored.file)
    return tensor


def check_all_finite(folder: Path) -> None:
    """Refuse an artifact in which a stored value is not finite: a runtime would compute with it.

    Raises:
        ArtifactError: a value is not finite, or a file is missing or damaged.
    """
    for name, stored in list_tensors(folder).items():
        read_tensor(name, stored)
