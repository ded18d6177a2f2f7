"""The file of weights beside an ONNX model: the writer appends to it, and readers map it into memory."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto
from pydantic import ValidationError
from torch import Tensor

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.foreign_files import own_file
from pythia_quant.formats.tensor_files import check_finite
from pythia_quant.recipe.onnx_variant import OnnxSettings

PAGE = 4096
"""The alignment of every tensor in bytes, as the ONNX specification recommends it for memory-mapping."""

SETTINGS_KEY = "pythia_quant.settings"
"""The key of the model's metadata whose value is the settings as JSON."""
MARK_KEY = "pythia_quant.data"
"""The key of the model's metadata whose value is the mark of its data."""

_MARKED_VALUES = 16_384

_TYPES: dict[np.dtype[Any], int] = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
}
_KINDS = {number: kind for kind, number in _TYPES.items()}
_OFFSET = re.compile(r"[0-9]{1,15}")
_MOST_BYTES = 2**31 - 1
"""The bytes of the largest graph with its constants: a protobuf message cannot be larger."""


def model_path(folder: Path, *, quantized: bool) -> Path:
    """Return the path of an artifact's model; its name is one that transformers.js looks for."""
    return folder / "onnx" / ("model_quantized.onnx" if quantized else "model.onnx")


def find_model(folder: Path) -> Path:
    """Return the artifact's model.

    Raises:
        ArtifactError: there is none.
    """
    for quantized in (True, False):
        name = model_path(folder, quantized=quantized).relative_to(folder).as_posix()
        if path := own_file(folder, name, ArtifactError):
            return path
    raise ArtifactError("holds no onnx/model.onnx and no onnx/model_quantized.onnx", where=str(folder), hint=_AGAIN)


def _mark(digest: str) -> bytes:
    return f"pythia-quant {digest}\n".encode()


class ExternalWriter:
    """Appends tensors to the file ``<model>_data`` beside a model. The file begins with a mark that the model has, too.

    Attributes:
        tensors: the initializers by which the model refers to the tensors, in the order of the file.
    """

    def __init__(self, model: Path) -> None:
        self.tensors: list[TensorProto] = []
        self._path = model.with_name(f"{model.name}_data")
        self._file = self._path.open("wb")
        self._file.write(bytes(PAGE))  # for the mark, which is known at the end
        self._digest = hashlib.sha256()

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor, fp32, uint8 or int8."""
        array = tensor.contiguous().numpy()
        self._file.write(bytes(-self._file.tell() % PAGE))
        proto = TensorProto(
            name=name, dims=array.shape, data_type=_TYPES[array.dtype], data_location=TensorProto.EXTERNAL
        )
        place = {"location": self._path.name, "offset": self._file.tell(), "length": array.nbytes}
        for key, value in place.items():
            proto.external_data.add(key=key, value=str(value))
        self._file.write(array.data)
        self._digest.update(name.encode())
        self._digest.update(array.reshape(-1)[:_MARKED_VALUES].tobytes())
        self.tensors.append(proto)

    def finish(self) -> str:
        """Write and return the mark by which a model recognizes its data: a hash of the beginnings of all tensors."""
        mark = self._digest.hexdigest()
        self._file.seek(0)
        self._file.write(_mark(mark))
        return mark

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class _Place(NamedTuple):
    file: Path
    kind: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]


class StoredModel:
    """A model's graph and its tensors at rest. Opening checks that every tensor lies within a file beside the model.

    The files may be links, as in the hub's cache.

    Attributes:
        path: the model's.
        proto: the model without its tensors.
        settings: the settings of the variant that the writer wrote.

    Raises:
        ArtifactError: the model cannot be parsed, or this program did not write it; or its external data is missing,
            truncated, from another model, or outside the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise DecodeError("too large for a graph without its tensors")
            self.proto = onnx.load(path, load_external_data=False)
        except (OSError, DecodeError) as error:
            raise ArtifactError(f"cannot be read as an ONNX model ({error})", where=str(path), hint=_AGAIN) from error
        metadata = {entry.key: entry.value for entry in self.proto.metadata_props}
        try:
            self.settings = OnnxSettings.model_validate_json(metadata[SETTINGS_KEY])
            self._mark = _mark(metadata[MARK_KEY])
        except (KeyError, ValidationError) as error:
            raise ArtifactError("is not a model that this program wrote", where=str(path), hint=_FOREIGN) from error
        self._checked_files: set[Path] = set()
        external = (t for t in self.proto.graph.initializer if t.data_location == TensorProto.EXTERNAL)
        self._places = {tensor.name: self._place(tensor) for tensor in external}

    def __contains__(self, name: str) -> bool:
        """Say whether the model has an external tensor of that name."""
        return name in self._places

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return one tensor as a read-only view of the file, which stays mapped while the view exists.

        Raises:
            ArtifactError: the model has no such external tensor.
        """
        if name not in self._places:
            raise ArtifactError(f"has no external tensor {name}", where=str(self.path), hint=_FOREIGN)
        place = self._places[name]
        return np.memmap(place.file, dtype=place.kind, mode="r", offset=place.offset, shape=place.shape)

    def tensor_bytes(self) -> dict[str, int]:
        """Return the bytes of every external tensor by its name, without the padding between them."""
        return {name: math.prod(place.shape) * place.kind.itemsize for name, place in self._places.items()}

    def detach(self, part: ModelProto) -> tuple[bytes, Path]:
        """Return a part of the model, or all of it, as bytes, and the folder that its file of data is in.

        ONNX Runtime refuses data behind a link, so in the returned part the link is replaced by the file it leads to.

        Raises:
            ArtifactError: the data is in several folders.
        """
        detached = ModelProto()
        detached.CopyFrom(part)
        folders = set()
        for tensor in detached.graph.initializer:
            if tensor.name in self._places:
                file = self._places[tensor.name].file.resolve()
                folders.add(file.parent)
                next(entry for entry in tensor.external_data if entry.key == "location").value = file.name
        if len(folders) > 1:
            raise ArtifactError("names data that are in several folders", where=str(self.path), hint=_AGAIN)
        return detached.SerializeToString(), folders.pop() if folders else self.path.parent

    def check_finite(self) -> None:
        """Refuse a model in which a scale or weight is not finite: ONNX Runtime would compute with it.

        Raises:
            ArtifactError: a value is not finite; the message names the first such tensor.
        """
        for name, place in self._places.items():
            if place.kind.kind == "f":
                check_finite(name, torch.from_numpy(np.array(self.array(name))), place.file)

    def _place(self, tensor: TensorProto) -> _Place:
        # protobuf returns text that is not UTF-8 as bytes.
        entries = {str(entry.key): str(entry.value) for entry in tensor.external_data}
        location, offset = entries.get("location", ""), entries.get("offset", "0")
        if Path(location).name != location or location in ("", "..") or not _OFFSET.fullmatch(offset):
            place = f"{location!r:.100}, byte {offset!r:.20}"
            raise ArtifactError(
                f"{tensor.name!s:.200} is said to be at {place}, not within a file beside the model",
                where=str(self.path),
                hint="do not use this file: a model has no business outside its folder",
            )
        file = own_file(self.path.parent, location, ArtifactError)
        if file is None:
            missing = str(self.path.with_name(location))
            raise ArtifactError(f"is missing; {tensor.name} is to be read from it", where=missing, hint=_AGAIN)
        self._check_mark(file)
        kind, shape = _KINDS.get(tensor.data_type), tuple(tensor.dims)
        if kind is None or min(shape, default=0) < 0:
            what = f"{tensor.name!r:.200} is of type {tensor.data_type} and shape {list(shape)!s:.80}"
            raise ArtifactError(what, where=str(self.path), hint=_FOREIGN)
        length = math.prod(shape) * kind.itemsize
        if entries.get("length") != str(length):
            what = f"{tensor.name!r:.200} is said to have {entries.get('length')!r:.40} bytes; its shape has {length:,}"
            raise ArtifactError(what, where=str(self.path), hint=_FOREIGN)
        end = int(offset) + length
        if end > (size := file.stat().st_size):
            what = f"is truncated: {tensor.name} ends at byte {end:,}, the file at {size:,}"
            raise ArtifactError(what, where=str(file), hint=_AGAIN)
        return _Place(file, kind, int(offset), shape)

    def _check_mark(self, file: Path) -> None:
        if file in self._checked_files:
            return
        with file.open("rb") as opened:
            mark = opened.read(len(self._mark))
        if mark != self._mark:
            what = f"are not the data of {self.path.name}: they belong to another artifact, or were changed"
            raise ArtifactError(what, where=str(file), hint=_AGAIN)
        self._checked_files.add(file)


_FOREIGN = "only models that this version of the program wrote can be read"
_AGAIN = "copy the artifact again, with all its files, or convert again"
