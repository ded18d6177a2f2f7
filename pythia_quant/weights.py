"""Tensors at rest, read one at a time: safetensors or ``pytorch_model.bin``, in one file or in shards."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pythia_quant.architecture import HEAD, Architecture
from pythia_quant.errors import SourceError
from pythia_quant.json_file import read_object
from pythia_quant.printable import short

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX_SUFFIX = ".index.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}\.(?:safetensors|bin)")

# Buffers that old checkpoints carry: a causal mask and rotary frequencies, both recomputed at run time.
_BUFFERS = (".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq")


# The dtypes weights may have, by safetensors' names.
_DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
_BYTES = {"F16": 2, "BF16": 2, "F32": 4}


class WeightReader(Protocol):
    """Gives the tensors of a GPT-NeoX by their names in a checkpoint."""

    @property
    def architecture(self) -> Architecture: ...

    def read(self, name: str) -> Tensor:
        """Return one tensor, in the dtype it is stored in.

        Raises:
            SourceError: it is missing, damaged or not finite.
        """
        ...


class WeightFiles:
    """A folder's weights. Opening checks every name and shape against the architecture; tensors are read on demand.

    Attributes:
        architecture: the shape they must have.
        tensor_bytes: bytes of all weights, without the buffers that old checkpoints carry.
    """

    def __init__(self, files: list[Path], architecture: Architecture) -> None:
        self.architecture = architecture
        self._pickled: dict[Path, dict[str, Tensor]] = {}
        self._file_of: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        self.tensor_bytes = 0
        for file in files:
            for name, (shape, dtype) in self._contents(file).items():
                if name.endswith(_BUFFERS):
                    continue
                if dtype not in _BYTES:
                    raise SourceError(f"{name} is {dtype}; only {', '.join(_BYTES)} are handled", where=str(file))
                self._file_of[name], shapes[name] = file, shape
                self.tensor_bytes += math.prod(shape) * _BYTES[dtype]
        self._check(shapes, files)

    def read(self, name: str) -> Tensor:
        file = self._file_of[name]
        if file in self._pickled:
            tensor = self._pickled[file][name]
        else:
            with safe_open(file, framework="pt") as opened:
                tensor = opened.get_tensor(name)
        if not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise SourceError(
                f"{bad:,} of {tensor.numel():,} values of {name} are not finite",
                where=str(file),
                hint="the checkpoint is damaged: download it again, or use another revision",
            )
        return tensor

    def _contents(self, file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and dtype of each tensor of a file, dtypes as safetensors abbreviates them."""
        damaged = "download the file again; it is truncated or was not written completely"
        try:
            if file.suffix == ".bin":
                # weights_only: a pickle from a hub may hold code, and this loader refuses to run any.
                self._pickled[file] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                return {
                    name: (tuple(t.shape), _DTYPES.get(t.dtype, str(t.dtype)))
                    for name, t in self._pickled[file].items()
                }
            with safe_open(file, framework="pt") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
        except (SafetensorError, OSError, RuntimeError, ValueError, AttributeError, EOFError) as error:
            raise SourceError(f"cannot be read ({_first_line(error)})", where=str(file), hint=damaged) from error
        except Exception as error:  # pickle.UnpicklingError carries the advice to turn the protection off
            raise SourceError(
                "is not a plain file of tensors, and nothing else is loaded from a pickle",
                where=str(file),
                hint="use a checkpoint in safetensors",
            ) from error

    def _check(self, shapes: dict[str, tuple[int, ...]], files: list[Path]) -> None:
        where = str(files[0].parent)
        if "lm_head.weight" in shapes:  # what native gptqmodel writes; on the hub the head is embed_out.weight
            raise SourceError("the head is called lm_head.weight", where=where, hint=f"rename the tensor to {HEAD}")
        expected = self.architecture.tensor_shapes()
        for name, shape in expected.items():
            if name not in shapes:
                raise SourceError(f"the tensor {name} is missing", where=where, hint="is a shard missing?")
            if shapes[name] != shape:
                raise SourceError(
                    f"{name} has shape {list(shapes[name])}; config.json says {list(shape)}",
                    where=str(self._file_of[name]),
                    hint="config.json and weights do not belong together",
                )
        for name in shapes:
            if name not in expected:
                raise SourceError(f"the tensor {name} is not handled", where=str(self._file_of[name]))


def weight_file_names(index: Path) -> list[str]:
    """Return the names of the shards that an index file (``*.index.json``) lists.

    Raises:
        SourceError: the index is damaged, or names a file outside its folder.
    """
    shards = read_object(index, SourceError).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise SourceError("is not an index of weight files", where=str(index))
    for name in shards.values():
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
            raise SourceError(f"names {short(name)}, which is not a weight file beside it", where=str(index))
    return sorted(set(shards.values()))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
