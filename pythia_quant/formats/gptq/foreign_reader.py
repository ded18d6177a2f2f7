"""Read GPTQ checkpoints of other makers: any group size and order, and whatever tensors they left unquantized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.text import short
from pythia_quant.formats.foreign_checkpoint import FLOATS, ForeignTensors, may_lack, read_foreign_config
from pythia_quant.formats.gptq.packing import unpack
from pythia_quant.model.architecture import HEAD, LINEARS
from pythia_quant.quantizers.grid import Quantized

BITS = (2, 3, 4, 8)
_LAYOUTS = {"gptq": 1, "gptq_v2": 0, None: 1}
"""By the name of the layout: what readers add to a stored zero point. Before it had a name there was only the first."""
_QUANTIZABLE = (*(f".{linear}.weight" for linear in LINEARS), HEAD)


@dataclass(frozen=True)
class Layout:
    """How a checkpoint's integers are packed.

    Attributes:
        bits: the bits of a code.
        group_size: the inputs that share a scale; -1 for all inputs of a row. The last group may have fewer.
        zero_offset: what is added to a stored zero point.
        dynamic: whether groups were formed in the order of the inputs' activations (``desc_act``).
        symmetric: whether the middle code stands for 0, as the quantizer says.
    """

    bits: int
    group_size: int
    zero_offset: int
    dynamic: bool
    symmetric: bool

    def groups(self, width: int) -> int:
        """Return the number of groups of a row."""
        return 1 if self.group_size == -1 else -(-width // self.group_size)


def read_layout(fields: dict[str, Any], where: str) -> Layout:
    """Understand a GPTQ checkpoint's ``quantization_config`` or ``quantize_config.json``.

    Raises:
        ArtifactError: a value is not handled; the message names it.
    """

    def refused(key: str, handled: str) -> ArtifactError:
        return ArtifactError(f"{key} of its quantization is {short(fields.get(key))}; handled: {handled}", where=where)

    bits, size = fields.get("bits"), fields.get("group_size", 128)
    if type(bits) is not int or bits not in BITS:
        raise refused("bits", "2, 3, 4 and 8")
    if type(size) is not int or not (size == -1 or 0 < size < 2**31):
        raise refused("group_size", "-1, and positive numbers")
    layout = fields.get("checkpoint_format")
    if layout not in _LAYOUTS or fields.get("is_marlin_format"):
        raise refused("checkpoint_format", "gptq and gptq_v2")
    if fields.get("pack_dtype") not in (None, "int32"):
        raise refused("pack_dtype", "int32")
    if fields.get("dynamic"):
        raise refused("dynamic", "one number of bits and one group size for all layers")
    flags = [fields.get(key, default) for key, default in (("desc_act", False), ("sym", True))]
    return Layout(bits, size, _LAYOUTS[layout], *map(bool, flags))


class ForeignGptq:
    """The tensors of a GPTQ checkpoint, read one at a time; opening checks every name, shape and dtype.

    A linear layer is quantized if the files hold its codes, whatever the configuration says.

    Attributes:
        architecture: the shape of the model, by ``config.json``.
        layout: how integers are packed.
        tensors: the stored tensors.

    Raises:
        ArtifactError: a file is missing or damaged, or a tensor does not fit its place.
        SourceError: ``config.json`` is not that of a GPT-NeoX.
    """

    def __init__(self, folder: Path) -> None:
        self.architecture, fields = read_foreign_config(folder)
        self.layout = read_layout(fields, str(folder / "config.json"))
        self.tensors = ForeignTensors(folder)
        known: set[str] = set()
        for name, shape in self.architecture.tensor_shapes().items():
            if self.is_quantized(name):
                known |= self._check_parts(name, shape)
                continue
            known.add(name)
            if name in self.tensors or not may_lack(name, self.architecture):
                self.tensors.require(name, FLOATS, shape)
        head_bias = HEAD.replace("weight", "bias")  # which some packers store, though there is none
        if head_bias in self.tensors and not self.tensors.load(head_bias).any():
            known.add(head_bias)
        self.tensors.require_no_others(known)

    def read(self, name: str) -> Tensor:
        """Return a tensor, dequantized to fp32, by its name in a checkpoint.

        Raises:
            ArtifactError: a value is not finite, or an input is in no group.
        """
        if self.is_quantized(name):
            return self.quantized(name).dequantize()
        return self.tensors.read(name, self.architecture)

    def quantized(self, name: str) -> Quantized:
        """Return the integers of a linear layer's weight by its name in a checkpoint.

        Raises:
            ArtifactError: see :meth:`read`.
        """
        prefix = _prefix(name)
        parts = {part: self.tensors.load(f"{prefix}.{part}") for part in ("qweight", "qzeros", "scales")}
        width, count = self.architecture.tensor_shapes()[name][1], len(parts["scales"])
        order = f"{prefix}.g_idx"
        if order in self.tensors:
            parts["g_idx"] = self.tensors.load(order).int()
            if parts["g_idx"].min() < 0 or parts["g_idx"].max() >= count:
                what = f"{order} names groups that are not there: there are {count}"
                raise ArtifactError(what, where=str(self.tensors.stored[order].file), hint="it is damaged or altered")
        else:
            parts["g_idx"] = torch.arange(width, dtype=torch.int32) // -(-width // count)
            if self.layout.group_size != -1:
                parts["g_idx"] = torch.arange(width, dtype=torch.int32) // self.layout.group_size
        found = unpack(parts, self.layout.bits)
        zeros = found.zeros - (1 - self.layout.zero_offset)  # unpack() added the 1 of the first layout
        return Quantized(found.bits, found.codes, found.scales, zeros, found.groups)

    def describe(self) -> str:
        """Return how the weights are stored, for people."""
        layout = self.layout
        groups = "rows" if layout.group_size == -1 else f"groups of {layout.group_size}"
        parts = [f"GPTQ, {layout.bits} bits in {groups}"]
        parts += ["ordered by activations"] if layout.dynamic else []
        parts += [] if layout.symmetric else ["with zero points"]
        parts += ["head too"] if self.is_quantized(HEAD) else []
        parts += [] if layout.zero_offset else ["layout gptq_v2"]
        return ", ".join(parts)

    def is_quantized(self, name: str) -> bool:
        """Return whether the checkpoint stores a tensor as integers, by its name in a checkpoint."""
        return name.endswith(_QUANTIZABLE) and f"{_prefix(name)}.qweight" in self.tensors

    def _check_parts(self, name: str, shape: tuple[int, ...]) -> set[str]:
        """Check the tensors of a quantized weight, and return their names."""
        prefix, (out, width), bits = _prefix(name), shape, self.layout.bits
        groups = self.layout.groups(width)
        if out * bits % 32 or width * bits % 32:
            raise ArtifactError(f"{name}, {[out, width]}, cannot be packed in {bits} bits", where=prefix)
        expected: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
            "qweight": (("I32",), (width * bits // 32, out)),
            "qzeros": (("I32",), (groups, out * bits // 32)),
            "scales": (FLOATS, (groups, out)),
        }
        if f"{prefix}.g_idx" in self.tensors:
            expected["g_idx"] = ("I32", "I64"), (width,)
        for part, (dtypes, packed) in expected.items():
            self.tensors.require(f"{prefix}.{part}", dtypes, packed)
        return {f"{prefix}.{part}" for part in expected}


def _prefix(name: str) -> str:
    return name.removesuffix(".weight")
