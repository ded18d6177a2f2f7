"""Checkpoints that others quantized: their ``config.json``, and their tensors under GPT-NeoX's names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from pythia_quant.core.errors import ArtifactError, SourceError
from pythia_quant.core.foreign_files import own_file, read_object
from pythia_quant.core.text import short
from pythia_quant.formats.tensor_files import NAME, StoredTensor, check_finite, stored_tensors
from pythia_quant.model.architecture import ATTENTION_BIASES, EMBEDDING, HEAD, Architecture
from pythia_quant.model.config import parse_config
from pythia_quant.model.pickled import described, read_pickle
from pythia_quant.model.place import ADAPTER, Place
from pythia_quant.model.weights import INDEX_SUFFIX, is_buffer, plain_name

QUANTIZE_CONFIG = "quantize_config.json"
"""The file in which quantizers kept their settings before transformers had a place for them."""
_CODE = ("auto_map", "custom_pipelines")
_WIDTHS = {"I64": 8, "F64": 8, "I32": 4, "F32": 4, "I16": 2, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = ("F16", "BF16", "F32")
"""The dtypes of tensors that are not quantized, by safetensors' names."""
_MOST_TENSORS = 1_000_000
_HINT = "it is damaged or altered: download it again"


class ForeignConfig(NamedTuple):
    """What the ``config.json`` of a checkpoint says that others made.

    Attributes:
        architecture: the model's shape.
        quantization: how it is quantized, as its quantizer writes that; empty if it is not.
    """

    architecture: Architecture
    quantization: dict[str, Any]


def read_config_fields(folder: Path) -> dict[str, Any] | None:
    """Read a folder's ``config.json``; None if it has none.

    Raises:
        ArtifactError: it is no JSON object, or names code to run.
    """
    path = own_file(folder, NAME, ArtifactError)
    if path is None:
        return None
    fields = read_object(path, ArtifactError, _HINT)
    for key in _CODE:
        if fields.get(key):
            raise ArtifactError(
                f"{key} names code that belongs to the checkpoint; no code of a checkpoint is run",
                where=str(path),
                hint="give one that transformers loads without trust_remote_code",
            )
    return fields


def quantization_of(folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Return how a checkpoint is quantized, by ``config.json`` or the file that quantizers wrote before; or nothing.

    Raises:
        ArtifactError: it is no object.
    """
    found = fields.get("quantization_config")
    if found is None and (path := own_file(folder, QUANTIZE_CONFIG, ArtifactError)):
        return {"quant_method": "gptq"} | read_object(path, ArtifactError, _HINT)
    if not isinstance(found, dict | None):
        raise ArtifactError("quantization_config is no object", where=str(folder / NAME), hint=_HINT)
    return found or {}


def read_foreign_config(folder: Path) -> ForeignConfig:
    """Read the shape and the quantization of a checkpoint that others made.

    Raises:
        ArtifactError: ``config.json`` is missing or damaged, or names code to run.
        SourceError: it does not describe a GPT-NeoX that we handle.
    """
    fields = read_config_fields(folder)
    if fields is None:
        raise ArtifactError(f"has no {NAME}", where=str(folder), hint="give a folder as the hub serves it")
    if own_file(folder, ADAPTER, ArtifactError):
        raise ArtifactError(f"holds {ADAPTER}: it is an adapter, or has one", where=str(folder), hint="merge it first")
    quantization = quantization_of(folder, fields)
    fields.pop("quantization_config", None)
    return ForeignConfig(parse_config(fields, str(folder / NAME)), quantization)


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a checkpoint's weights: those that transformers takes, or else the only one there.

    Raises:
        ArtifactError: there is none, or there are several, or one leads out of the folder.
    """
    place = Place(str(folder), "local", None, folder)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    try:
        if (
            "model.safetensors" in others
            or len(others) != 1
            or own_file(folder, f"model.safetensors{INDEX_SUFFIX}", ArtifactError)
        ):
            names = place.weight_names()
        else:  # as auto-gptq called its file by bits and group size
            names = others
        return [path for name in names if (path := place.get(name))]
    except SourceError as error:
        raise ArtifactError(error.what, where=error.where, hint=error.hint) from error


class ForeignTensors:
    """The tensors of a checkpoint under GPT-NeoX's names, with parts such as ``.qweight`` in place of ``.weight``.

    Masks and tables that models compute again are left out. Of pickles only tensors are read.

    Attributes:
        files: the files that hold them.
        stored: where each tensor is, its dtype and its shape, by its plain name.

    Raises:
        ArtifactError: a file is missing or damaged, or holds a tensor twice.
    """

    def __init__(self, folder: Path) -> None:
        self.files = weight_files(folder)
        self.stored: dict[str, StoredTensor] = {}
        self._names: dict[str, str] = {}
        self._pickled: dict[Path, dict[str, Tensor]] = {}
        for file in self.files:
            for name, entry in self._contents(file).items():
                plain = _translated(name)
                if is_buffer(plain):
                    continue
                if plain in self.stored or len(self.stored) > _MOST_TENSORS:
                    raise ArtifactError(f"{short(plain, 200)} is there twice", where=str(file), hint=_HINT)
                self.stored[plain], self._names[plain] = entry, name

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def load(self, name: str, *, codes: bool = False) -> Tensor:
        """Return a tensor as it is stored; `codes` says that its bytes are no numbers of its dtype.

        Raises:
            ArtifactError: a value is not finite.
        """
        file = self.stored[name].file
        if file in self._pickled:
            tensor = self._pickled[file][self._names[name]]
        else:
            with safe_open(file, framework="pt") as opened:
                tensor = opened.get_tensor(self._names[name])
        if not codes:
            check_finite(name, tensor, file)
        return tensor

    def read(self, name: str, architecture: Architecture) -> Tensor:
        """Return a tensor that is not quantized, fp32; a tied head is the embeddings, and biases left out are zeros.

        Raises:
            ArtifactError: a value is not finite.
        """
        if name in self.stored:
            return self.load(name).float()
        return self.load(EMBEDDING).float() if name == HEAD else torch.zeros(architecture.tensor_shapes()[name])

    def require(self, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> None:
        """Refuse a tensor that is missing, or has another dtype or shape than native code may rely on.

        Raises:
            ArtifactError: it is so; the message names the tensor.
        """
        if name not in self.stored:
            raise ArtifactError(f"the tensor {name} is missing", where=str(self.files[0].parent), hint=_HINT)
        stored = self.stored[name]
        if stored.dtype not in dtypes or stored.shape != shape:
            what = f"{name} is {stored.dtype} {list(stored.shape)!s:.80}; {' or '.join(dtypes)} {list(shape)} is needed"
            raise ArtifactError(what, where=str(stored.file), hint="weights and config.json do not belong together")

    def require_no_others(self, names: set[str]) -> None:
        """Refuse tensors that are none of `names`: another program might compute with them.

        Raises:
            ArtifactError: there is one.
        """
        for name in sorted(self.stored.keys() - names):
            what = f"the tensor {short(self._names[name], 200)} is none of GPT-NeoX's"
            raise ArtifactError(what, where=str(self.stored[name].file), hint="it is of a kind that is not read")

    def streamed_bytes(self) -> int:
        """Return the bytes of all tensors but the embeddings."""
        return sum(
            _WIDTHS.get(one.dtype, 1) * math.prod(one.shape) for name, one in self.stored.items() if name != EMBEDDING
        )

    def _contents(self, file: Path) -> dict[str, StoredTensor]:
        if file.suffix == ".safetensors":
            return stored_tensors(file)
        try:
            self._pickled[file], _ = read_pickle(file)
        except SourceError as error:
            raise ArtifactError(error.what, where=error.where, hint=error.hint) from error
        found = {name: described(tensor) for name, tensor in self._pickled[file].items()}
        return {name: StoredTensor(file, _pickled_dtype(dtype), shape) for name, (shape, dtype) in found.items()}


def _pickled_dtype(name: str) -> str:
    return {"torch.int32": "I32", "torch.int64": "I64", "torch.uint8": "U8", "torch.int8": "I8"}.get(name, name)


def _translated(name: str) -> str:
    plain = plain_name(name)
    body, head, part = plain.rpartition("lm_head.")
    return f"{HEAD.removesuffix('weight')}{part}" if head and (not body or body.endswith(".")) else plain


def may_lack(name: str, architecture: Architecture) -> bool:
    """Say whether a checkpoint of this shape need not have a tensor: a tied head, or biases of its attention."""
    return (architecture.tied and name == HEAD) or (
        not architecture.attention_biases and name.endswith(ATTENTION_BIASES)
    )
