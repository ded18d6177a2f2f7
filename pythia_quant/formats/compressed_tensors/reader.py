"""Read a compressed-tensors artifact: its integers, or the fp32 weights that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.compressed_tensors.packing import PARTS, packed_layout, unpack
from pythia_quant.formats.tensor_files import (
    AGAIN,
    NAME,
    check_tensors,
    list_tensors,
    read_artifact_config,
    read_tensor,
)
from pythia_quant.model.architecture import LINEARS, Architecture
from pythia_quant.quantizers.grid import Quantized

_QUANTIZED = tuple(f"{linear}.weight" for linear in LINEARS)


class CompressedWeights:
    """An artifact's tensors, which are read one at a time. Opening checks every name, shape and dtype.

    Args:
        folder: the artifact.
        architecture: the shape of the model.
        bits: the bits of a code.
        group_size: the number of inputs that share a scale; None for all inputs of a row.

    Raises:
        ArtifactError: a tensor is missing, or has another shape or dtype than its place in the model requires.
    """

    def __init__(self, folder: Path, architecture: Architecture, bits: int, group_size: int | None) -> None:
        self.architecture = architecture
        self._bits = bits
        self._entries = list_tensors(folder)
        expected: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, shape in architecture.tensor_shapes().items():
            if not self.is_quantized(name):
                expected[name] = "F16", shape
                continue
            size = group_size or shape[1]
            if shape[1] * bits % 32 or shape[1] % size:
                what = f"{name}, {list(shape)}, cannot be packed in {bits} bits and groups of {size}"
                raise ArtifactError(what, where=str(folder / NAME), hint=AGAIN)
            for part, stored in packed_layout(shape, bits, size).items():
                expected[f"{name.removesuffix('.weight')}.{part}"] = stored
        check_tensors(self._entries, expected, folder)

    def read(self, name: str) -> Tensor:
        """Return a tensor, dequantized to fp32, by its name in a checkpoint.

        Raises:
            ArtifactError: a value is not finite, or a stored shape is not that of the weight.
        """
        return self.quantized(name).dequantize() if self.is_quantized(name) else self._load(name).float()

    def quantized(self, name: str) -> Quantized:
        """Return the integers of a linear layer's weight by its name in a checkpoint.

        Raises:
            ArtifactError: see :meth:`read`.
        """
        prefix = name.removesuffix(".weight")
        parts = {part: self._load(f"{prefix}.{part}") for part in PARTS}
        shape, said = list(self.architecture.tensor_shapes()[name]), parts["weight_shape"].tolist()
        if said != shape:
            where = str(self._entries[f"{prefix}.weight_shape"].file)
            raise ArtifactError(f"{prefix}.weight_shape is {said}, not {shape}", where=where, hint=AGAIN)
        return unpack(parts, self._bits)

    def is_quantized(self, name: str) -> bool:
        """Return whether the artifact stores a tensor of a checkpoint, by its name there, as integers."""
        return name.endswith(_QUANTIZED)

    def _load(self, name: str) -> Tensor:
        return read_tensor(name, self._entries[name])


def quantization_fields(bits: int, group_size: int | None) -> dict[str, Any]:
    """Return the `quantization_config` of an artifact's ``config.json``; a group size of None stands for rows.

    The names of the head, in checkpoints and in transformers 5, are both ignored, because either may be looked for.
    """
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group" if group_size else "channel",
        "group_size": group_size,
        "dynamic": False,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["embed_out", "lm_head"],
    }


def read(folder: Path) -> CompressedWeights:
    """Open an artifact's weights.

    Raises:
        ArtifactError: a file is missing or damaged, a tensor is not as ``config.json`` says, or ``config.json`` names
            another layout than the one that we write.
        SourceError: ``config.json`` is not that of a GPT-NeoX.
    """
    architecture, _, fields = read_artifact_config(folder)
    for bits in (4, 8):
        for size in (32, 64, 128, None):
            # repr tells 4 from 4.0 and True from 1, which are equal
            if repr(sorted(fields.items())) == repr(sorted(quantization_fields(bits, size).items())):
                return CompressedWeights(folder, architecture, bits, size)
    raise ArtifactError(
        "quantization_config is none that we write for compressed-tensors: pack-quantized, 4 or 8 bits, symmetric",
        where=str(folder / NAME),
        hint="open an artifact that pythia-quant wrote",
    )
