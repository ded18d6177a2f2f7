"""Read compressed-tensors checkpoints of other makers: integers of up to 8 bits in the layout ``pack-quantized``.

Sources: the package compressed-tensors, whose ``pack_to_int32`` defines the words; up to version 0.16 it also had
``actorder: group``, in which ``weight_g_idx`` names the group of each input.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.text import short
from pythia_quant.formats.foreign_checkpoint import FLOATS, ForeignTensors, may_lack, read_foreign_config
from pythia_quant.formats.gptq.packing import from_words
from pythia_quant.formats.tensor_files import NAME
from pythia_quant.model.architecture import HEAD, LINEARS
from pythia_quant.quantizers.grid import Quantized

_LAYOUT = "pack-quantized"
_QUANTIZABLE = (*(f".{linear}.weight" for linear in LINEARS), HEAD)
_ALTERED = "it is damaged or altered: download it again"


class Grid(NamedTuple):
    """The grid of a weight: the bits of a code, the inputs that share a scale (None for all), and what 0 is.

    In a symmetric grid the middle code stands for 0; in others every group has a zero point.
    """

    bits: int
    group_size: int | None
    symmetric: bool


class Packed(NamedTuple):
    """A quantized weight: its grid, and whether a tensor says which group each input belongs to."""

    bits: int
    group_size: int | None
    symmetric: bool
    ordered: bool


def read_grids(fields: dict[str, Any], where: str) -> set[Grid]:
    """Understand a ``quantization_config`` of compressed-tensors: the grids that its weights may be in.

    Raises:
        ArtifactError: it asks for something that is not handled; the message names it.
    """

    def refused(key: str, value: object, handled: str) -> ArtifactError:
        return ArtifactError(f"{key} of its quantization is {short(value)}; handled: {handled}", where=where)

    layout, groups = fields.get("format"), fields.get("config_groups")
    if layout not in (_LAYOUT, "mixed-precision"):
        raise refused("format", layout, _LAYOUT)
    sparsity = fields.get("sparsity_config") or {}
    if not isinstance(sparsity, dict) or sparsity.get("format", "dense") != "dense":
        raise refused("sparsity_config", sparsity, "weights that are not compressed as sparse ones")
    for key in ("kv_cache_scheme", "transform_config"):
        if fields.get(key):
            raise refused(key, fields[key], "quantized weights alone")
    if not isinstance(groups, dict) or not groups:
        raise refused("config_groups", groups, "groups with their weights")
    grids = set()
    for said in groups.values():
        group = said if isinstance(said, dict) else {"weights": said}
        if group.get("format", layout) not in (_LAYOUT, None):
            raise refused("format", group.get("format", layout), _LAYOUT)
        for key in ("input_activations", "output_activations"):
            if group.get(key):
                raise refused(key, group[key], "quantized weights alone")
        grid = _read_grid(group.get("weights"))
        if grid is None:
            handled = "integers of 2 to 8 bits in groups or channels"
            raise refused("weights", group.get("weights"), handled)
        grids.add(grid)
    return grids


def _read_grid(weights: object) -> Grid | None:
    """Return the grid that a group of layers has; None if it is not handled."""
    if not isinstance(weights, dict):
        return None
    bits, size, symmetric = weights.get("num_bits"), weights.get("group_size"), weights.get("symmetric", True)
    strategy = weights.get("strategy") or {None: "tensor", -1: "channel"}.get(size, "group")
    fits = (
        type(bits) is int
        and 2 <= bits <= 8
        and weights.get("type", "int") == "int"
        and type(symmetric) is bool
        and not weights.get("dynamic")
    )
    if fits and strategy == "channel" and size in (None, -1):
        return Grid(int(str(bits)), None, symmetric)
    if fits and strategy == "group" and type(size) is int and 0 < size < 2**31:
        return Grid(int(str(bits)), size, symmetric)
    return None


class ForeignCompressed:
    """The tensors of a compressed-tensors checkpoint, read one at a time; opening checks every name, shape and dtype.

    A linear layer is quantized if the files hold its words. The tensors' shapes say in which grid, and the
    configuration must name it: so its patterns of names, which may be regular expressions of anybody, are never run.

    Attributes:
        architecture: the shape of the model, by ``config.json``.
        tensors: the stored tensors.
        packed: how each quantized weight is stored, by its name.

    Raises:
        ArtifactError: a file is missing or damaged, or a tensor does not fit its place.
        SourceError: ``config.json`` is not that of a GPT-NeoX.
    """

    def __init__(self, folder: Path) -> None:
        self.architecture, fields = read_foreign_config(folder)
        self._where = str(folder / NAME)
        self._grids = read_grids(fields, self._where)
        self.tensors = ForeignTensors(folder)
        self.packed: dict[str, Packed] = {}
        known: set[str] = set()
        for name, shape in self.architecture.tensor_shapes().items():
            if name.endswith(_QUANTIZABLE) and _part(name, "packed") in self.tensors:
                known |= self._check_parts(name, shape)
                continue
            known.add(name)
            if name in self.tensors or not may_lack(name, self.architecture):
                self.tensors.require(name, FLOATS, shape)
        self.tensors.require_no_others(known)

    def read(self, name: str) -> Tensor:
        """Return a tensor, dequantized to fp32, by its name in a checkpoint.

        Raises:
            ArtifactError: a value is not finite, or the order of the inputs is none.
        """
        if self.is_quantized(name):
            return self.quantized(name).dequantize()
        return self.tensors.read(name, self.architecture)

    def quantized(self, name: str) -> Quantized:
        """Return the integers of a linear layer's weight by its name in a checkpoint.

        Raises:
            ArtifactError: see :meth:`read`; or a stored shape is not that of the weight.
        """
        (out, width), stored = self.architecture.tensor_shapes()[name], self.packed[name]
        if (said := self._load(name, "shape").tolist()) != [out, width]:
            file = str(self.tensors.stored[_part(name, "shape")].file)
            raise ArtifactError(f"{_part(name, 'shape')} is {said}, not {[out, width]}", where=file, hint=_ALTERED)
        scales = self._load(name, "scale")
        zeros = torch.full(scales.shape, 2 ** (stored.bits - 1), dtype=torch.uint8)
        if not stored.symmetric:
            zeros = _numbers(self._load(name, "zero_point"), stored.bits, out)
        return Quantized(
            bits=stored.bits,
            codes=_numbers(self._load(name, "packed").T, stored.bits, width).T.contiguous(),
            scales=scales,
            zeros=zeros,
            groups=self._groups(name, stored.group_size or width, width),
        )

    def describe(self) -> str:
        """Return how the weights are stored, for people."""
        grids = {(one.bits, one.group_size, one.symmetric) for one in self.packed.values()}
        parts = ["compressed-tensors"]
        for bits, size, symmetric in sorted(grids, key=repr):
            groups = f"groups of {size}" if size else "rows"
            parts.append(f"{bits} bits in {groups}{'' if symmetric else ' with zero points'}")
        parts += ["ordered by activations"] if any(one.ordered for one in self.packed.values()) else []
        parts += ["head too"] if self.is_quantized(HEAD) else []
        return ", ".join(parts)

    def is_quantized(self, name: str) -> bool:
        """Return whether the checkpoint stores a tensor as integers, by its name in a checkpoint."""
        return name in self.packed

    def _groups(self, name: str, size: int, width: int) -> Tensor:
        """Return the group of each input, int32 [in]. A tensor of -1 is a place that was never filled."""
        plain = torch.arange(width, dtype=torch.int32) // size
        if not self.packed[name].ordered:
            return plain
        order = self._load(name, "g_idx").int()
        if (order == -1).all():
            return plain
        if not torch.equal(order.sort().values, plain):
            what = f"{_part(name, 'g_idx')} does not put {size} inputs into each group"
            raise ArtifactError(what, where=str(self.tensors.stored[_part(name, "g_idx")].file), hint=_ALTERED)
        return order

    def _check_parts(self, name: str, shape: tuple[int, ...]) -> set[str]:
        """Check the tensors of a quantized weight, and return their names."""
        (out, width), asymmetric = shape, _part(name, "zero_point") in self.tensors
        layouts = {grid: _layout(shape, grid) for grid in self._grids if grid.symmetric != asymmetric}
        fitting = [
            grid
            for grid, layout in layouts.items()
            if all(self._has(name, part, *expected) for part, expected in layout.items())
        ]
        if len({(grid.bits, min(grid.group_size or width, width)) for grid in fitting}) != 1:
            stored = {
                part: (self.tensors.stored[_part(name, part)].dtype, list(self.tensors.stored[_part(name, part)].shape))
                for part in ("packed", "scale", "zero_point", "shape")
                if _part(name, part) in self.tensors
            }
            what = f"{name}, {[out, width]}, is stored as {short(stored, 300)}, which config.json does not say"
            raise ArtifactError(what, where=self._where, hint="weights and config.json do not belong together")
        grid, expected = fitting[0], layouts[fitting[0]]
        if ordered := _part(name, "g_idx") in self.tensors:
            expected["g_idx"] = ("I32", "I64"), (width,)
            self.tensors.require(_part(name, "g_idx"), *expected["g_idx"])
        self.packed[name] = Packed(*grid, ordered)
        return {_part(name, part) for part in expected}

    def _has(self, name: str, part: str, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> bool:
        stored = self.tensors.stored.get(_part(name, part))
        return stored is not None and stored.dtype in dtypes and stored.shape == shape

    def _load(self, name: str, part: str) -> Tensor:
        return self.tensors.load(_part(name, part))


def _part(name: str, part: str) -> str:
    return f"{name}_{part}"


def _layout(shape: tuple[int, ...], grid: Grid) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Return the dtypes and the shape of each tensor of a weight of `shape`, [out, in]; last words may be padded."""
    out, width = shape
    groups = -(-width // (grid.group_size or width))
    layout: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
        "packed": (("I32",), (out, -(-width * grid.bits // 32))),
        "scale": (FLOATS, (out, groups)),
        "shape": (("I64", "I32"), (2,)),
    }
    if not grid.symmetric:
        layout["zero_point"] = ("I32",), (-(-out * grid.bits // 32), groups)
    return layout


def _numbers(words: Tensor, bits: int, count: int) -> Tensor:
    """Unpack int32 [words, columns] into uint8 [count, columns]; words that were cut off at the end held none."""
    missing = -len(words) % bits
    return from_words(torch.nn.functional.pad(words, (0, 0, 0, missing)), bits)[:count]
