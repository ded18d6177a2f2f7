"""Read a GGUF artifact: its tensors, dequantized, under the names of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pythia_quant.core.errors import ArtifactError, QuantizationError
from pythia_quant.formats.gguf.header import Header, TensorPlace, read_header, read_rows
from pythia_quant.formats.gguf.metadata import keys
from pythia_quant.formats.gguf.names import find_file, interleave, is_mixed, tensor_name
from pythia_quant.formats.gguf.vocabulary import read_vocabulary
from pythia_quant.formats.tensor_files import AGAIN, check_finite, read_artifact_config
from pythia_quant.model.architecture import EMBEDDING, Architecture
from pythia_quant.model.tokenizer import TOKENIZER
from pythia_quant.quantizers.ggml import TYPES, Packed

_ROWS_AT_ONCE = 4096


class GgufWeights:
    """A file's tensors, which are read one at a time. Opening checks every name, shape and type.

    Args:
        path: the GGUF file.
        architecture: the shape of the model.
        header: the file's header.

    Raises:
        ArtifactError: a tensor is missing, has another shape, or does not belong there.
    """

    def __init__(self, path: Path, architecture: Architecture, header: Header) -> None:
        self.architecture, self.path = architecture, path
        self.places = _places(header, architecture, path)

    def read(self, name: str) -> Tensor:
        """Return a tensor, dequantized to fp32, by its name in a checkpoint.

        Raises:
            ArtifactError: a value is not finite, or the file was cut short.
        """
        place = self.places[name]
        tensor = torch.empty(place.shape).view(-1, place.shape[-1])
        row = 0
        for piece in read_rows(self.path, place, _ROWS_AT_ONCE):
            packed = Packed(
                place.kind, torch.frombuffer(bytearray(piece), dtype=torch.uint8).view(-1, _row_bytes(place))
            )
            part = packed.dequantize()
            tensor[row : row + len(part)] = part
            row += len(part)
        check_finite(name, tensor, self.path)
        tensor = tensor.view(place.shape)
        return interleave(tensor, self.architecture) if is_mixed(name) else tensor


def read(folder: Path) -> GgufWeights:
    """Open an artifact's weights.

    Raises:
        ArtifactError: a file is missing or damaged, or says something else than ``config.json`` and ``tokenizer.json``.
        SourceError: ``config.json`` is not that of a GPT-NeoX.
    """
    architecture = read_artifact_config(folder).architecture
    path = find_file(folder)
    try:
        vocabulary = read_vocabulary(folder / TOKENIZER, architecture.vocabulary)
        header = read_header(path)
        _check_keys(header, keys(architecture, vocabulary), path)
        return GgufWeights(path, architecture, header)
    except QuantizationError as error:
        raise ArtifactError(error.what, where=error.where or str(folder), hint=AGAIN) from error


def streamed_bytes(folder: Path) -> int:
    """Return the bytes of weights that are read to decode a token: all tensors but the embeddings.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    places = read(folder).places
    return sum(place.size for name, place in places.items() if name != EMBEDDING)


def _row_bytes(place: TensorPlace) -> int:
    block = TYPES[place.kind]
    return place.shape[-1] // block.block * block.size


def _check_keys(header: Header, expected: dict[str, Any], path: Path) -> None:
    """Refuse a file whose keys are not those that the other files of the artifact call for."""
    decisive = {key for key in header.values if not key.startswith("general.")} | {"general.architecture"}
    for key in sorted(decisive | expected.keys()):
        actual, value = header.values.get(key), expected.get(key)
        same = abs(actual - value) <= 1e-6 * abs(value) if type(actual) is type(value) is float else actual == value
        if not same:
            what = f"{key:.100} is {_short(actual)}; config.json and {TOKENIZER} call for {_short(value)}"
            raise ArtifactError(what, where=str(path), hint=AGAIN)


def _short(value: Any) -> str:
    return f"a list of {len(value):,}" if isinstance(value, list) else f"{value!r:.60}"


def _places(header: Header, shape: Architecture, path: Path) -> dict[str, TensorPlace]:
    """Return the places of a model's tensors by their names in a checkpoint."""
    places: dict[str, TensorPlace] = {}
    for name, dimensions in shape.tensor_shapes().items():
        stored = tensor_name(name)
        place = header.tensors.get(stored)
        if place is None:
            raise ArtifactError(f"the tensor {stored} is missing", where=str(path), hint=AGAIN)
        if place.shape != dimensions or (len(dimensions) == 1 and place.kind != "f32"):
            what = f"{stored} is {place.kind} {list(place.shape)!s:.80}; {list(dimensions)} is expected"
            raise ArtifactError(what, where=str(path), hint="weights and config.json do not belong together")
        places[name] = place
    known = {tensor_name(name) for name in places}
    for stored in header.tensors.keys() - known:
        raise ArtifactError(f"the tensor {stored!r:.100} does not belong there", where=str(path), hint=AGAIN)
    return places
