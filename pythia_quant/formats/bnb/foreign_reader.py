"""Read bitsandbytes checkpoints of other makers, in 4 and 8 bits, dequantized in plain torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.foreign_files import parse_json
from pythia_quant.core.text import short
from pythia_quant.formats.bnb.quant_state import is_fields
from pythia_quant.formats.foreign_checkpoint import FLOATS, ForeignTensors, may_lack, read_foreign_config
from pythia_quant.formats.tensor_files import NAME
from pythia_quant.model.architecture import HEAD, LINEARS

_STATE = ".quant_state.bitsandbytes__"
_BLOCKS = tuple(2**power for power in range(5, 13))
_STORAGES = {"U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4}
_QUANTIZABLE = (*(f".{linear}.weight" for linear in LINEARS), HEAD)
_DAMAGED = "it is damaged or altered: download it again"


class Blocks(NamedTuple):
    """How a weight in 4 bits is stored: its type, the weights that share a scale, and the scales that share one."""

    quant_type: str
    size: int
    nested_size: int | None
    nested_offset: float


class ForeignBnb:
    """The weights of a bitsandbytes checkpoint; opening checks every name, shape and dtype.

    A linear layer is quantized if the files hold its scales, whatever the configuration says.

    Attributes:
        architecture: the shape of the model, by ``config.json``.
        fields: its ``quantization_config``.
        tensors: the stored tensors.
        blocks: how each weight in 4 bits is stored, by its name.

    Raises:
        ArtifactError: a file is missing or damaged, or a tensor does not fit its place.
        SourceError: ``config.json`` is not that of a GPT-NeoX.
    """

    def __init__(self, folder: Path) -> None:
        self.architecture, self.fields = read_foreign_config(folder)
        self._where = str(folder / NAME)
        self.tensors = ForeignTensors(folder)
        self.blocks: dict[str, Blocks] = {}
        known: set[str] = set()
        for name, shape in self.architecture.tensor_shapes().items():
            known.add(name)
            if name.endswith(_QUANTIZABLE) and f"{name}.absmax" in self.tensors:
                known |= self._check_4_bits(name, shape)
            elif self._in_8_bits(name):
                known |= self._check_8_bits(name, shape)
            elif name in self.tensors or not may_lack(name, self.architecture):
                self.tensors.require(name, FLOATS, shape)
        self.tensors.require_no_others(known)

    @property
    def bits(self) -> int:
        """The bits of the quantized layers; 16 if there is none."""
        return 4 if self.blocks else 8 if any(map(self._in_8_bits, self.architecture.tensor_shapes())) else 16

    def is_quantized(self, name: str) -> bool:
        """Return whether a tensor has 4 or 8 bits, by its name in a checkpoint."""
        return name in self.blocks or self._in_8_bits(name)

    def read(self, name: str) -> Tensor:
        """Return a tensor, dequantized to fp32, by its name in a checkpoint.

        Raises:
            ArtifactError: a value is not finite.
        """
        if name in self.blocks:
            return self._read_4_bits(name, self.blocks[name])
        if self._in_8_bits(name):
            scales = self.tensors.load(f"{name.removesuffix('.weight')}.SCB")
            return self.tensors.load(name).float() * (scales.float() / 127)[:, None]
        return self.tensors.read(name, self.architecture)

    def _in_8_bits(self, name: str) -> bool:
        return name.endswith(_QUANTIZABLE) and f"{name.removesuffix('.weight')}.SCB" in self.tensors

    def _check_8_bits(self, name: str, shape: tuple[int, ...]) -> set[str]:
        prefix = name.removesuffix(".weight")
        self.tensors.require(name, ("I8",), shape)
        self.tensors.require(f"{prefix}.SCB", ("F32", "F16"), shape[:1])
        form = f"{prefix}.weight_format"
        if form in self.tensors:
            self.tensors.require(form, ("U8",), ())
            if int(self.tensors.load(form)):
                what = f"{form} says that the weight is not stored row by row, which only other devices read"
                raise ArtifactError(what, where=str(self.tensors.stored[form].file))
        return {f"{prefix}.SCB", form}

    def _check_4_bits(self, name: str, shape: tuple[int, ...]) -> set[str]:
        """Check what is stored of a weight, which native code relies on, and return the names of the tensors."""
        states = [kind for kind in ("nf4", "fp4") if f"{name}{_STATE}{kind}" in self.tensors]
        if len(states) != 1:
            raise ArtifactError(f"{name} has no state that says how it is stored, or two", where=self._where)
        state = f"{name}{_STATE}{states[0]}"
        self.blocks[name] = blocks = self._read_state(state, states[0], shape)
        count = -(-math.prod(shape) // blocks.size)
        expected: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
            ".absmax": (("U8",) if blocks.nested_size else ("F32",), (count,)),
            ".quant_map": (("F32",), (16,)),
        }
        if blocks.nested_size:
            expected[".nested_absmax"] = ("F32",), (-(-count // blocks.nested_size),)
            expected[".nested_quant_map"] = ("F32",), (256,)
        if name not in self.tensors:
            raise ArtifactError(f"the tensor {name} is missing", where=self._where, hint=_DAMAGED)
        width = _STORAGES.get(self.tensors.stored[name].dtype, 1)
        expected[""] = tuple(_STORAGES), (-(-math.prod(shape) // 2) // width, 1)
        for suffix, (dtypes, stored) in expected.items():
            self.tensors.require(f"{name}{suffix}", dtypes, stored)
        return {state, *(f"{name}{suffix}" for suffix in expected)}

    def _read_state(self, state: str, kind: str, shape: tuple[int, ...]) -> Blocks:
        stored = self.tensors.stored[state]
        if not is_fields(stored.dtype, stored.shape):
            raise ArtifactError(f"{state} is no JSON", where=str(stored.file), hint=_DAMAGED)
        content = self.tensors.load(state).numpy().tobytes()
        fields: Any = parse_json(content, f"{stored.file}, {state}", ArtifactError, _DAMAGED)
        fields = fields if isinstance(fields, dict) else {}
        nested, offset = fields.get("nested_blocksize"), fields.get("nested_offset", 0.0)
        right = {
            "quant_type": fields.get("quant_type") == kind,
            "shape": json.dumps(fields.get("shape")) == json.dumps(list(shape)),
            "blocksize": type(fields.get("blocksize")) is int and fields["blocksize"] in _BLOCKS,
            "nested_blocksize": nested is None or (type(nested) is int and nested in _BLOCKS),
            "nested_dtype": fields.get("nested_dtype", "float32") == "float32",
            "nested_offset": isinstance(offset, float) and math.isfinite(offset),
            "dtype": fields.get("dtype") in ("float16", "bfloat16", "float32"),
        }
        for key in (key for key, fits in right.items() if not fits):
            what = f"{state} says {key} {short(fields.get(key))}, which cannot be right for {list(shape)}"
            raise ArtifactError(what, where=str(stored.file), hint=_DAMAGED)
        return Blocks(kind, fields["blocksize"], nested, offset)

    def _read_4_bits(self, name: str, blocks: Blocks) -> Tensor:
        shape = self.architecture.tensor_shapes()[name]
        codes = self.tensors.load(name, codes=True).contiguous().view(torch.uint8).reshape(-1)
        values = self.tensors.load(f"{name}.quant_map")[torch.stack((codes >> 4, codes & 15), 1).int().reshape(-1)]
        scales = self.tensors.load(f"{name}.absmax")
        if blocks.nested_size:
            table, outer = (self.tensors.load(f"{name}.nested_{part}") for part in ("quant_map", "absmax"))
            outer = outer.repeat_interleave(blocks.nested_size)[: len(scales)]
            scales = table[scales.int()] * outer + blocks.nested_offset
        count = math.prod(shape)
        weight = values[:count] * scales.repeat_interleave(blocks.size)[:count]
        return weight.view(shape)
