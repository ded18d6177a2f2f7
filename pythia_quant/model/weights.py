"""Translate the tensor names that other programs write into the names of GPT-NeoX on the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from safetensors import SafetensorError, safe_open

from pythia_quant.core.errors import SourceError
from pythia_quant.core.foreign_files import read_object
from pythia_quant.core.text import short
from pythia_quant.model.architecture import ATTENTION_BIASES, EMBEDDING, HEAD, Architecture

if TYPE_CHECKING:
    from torch import Tensor

# What torch.compile, data parallel wrappers, activation checkpointing, PEFT and Lightning put into a name.
_WRAPPERS = {
    "_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "base_model",
    "model",
}  # fmt: skip

# Old checkpoints carry them: a causal mask and rotary tables, all computed again at run time.
_BUFFERS = (
    ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq", ".rotary_emb.original_inv_freq",
    ".rotary_emb.cos_cached", ".rotary_emb.sin_cached",
)  # fmt: skip

_BODY = "gpt_neox."

_WITHOUT_HEAD = ("embed_in.", "layers.", "final_layer_norm.", "rotary_emb.")

_ADAPTER = ("lora_", "base_layer", "modules_to_save", "ia3_")

_QUANTIZED = (
    "qweight", "qzeros", "scales", "g_idx", "SCB", "absmax", "quant_map", "quant_state", "weight_scale",
    "weight_packed", "weight_scale_inv",
)  # fmt: skip


def plain_name(name: str) -> str:
    """Return a tensor's name without the wrappers' parts; ``lm_head`` is the head by transformers' own name.

    What a program calls the whole model, such as ``student.`` or ``llm.``, is left out before ``gpt_neox.`` and a head.
    """
    name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    _, body, rest = name.rpartition(_BODY)
    if body or name.startswith(_WITHOUT_HEAD):
        return f"{_BODY}{rest}"
    return HEAD if name.endswith((".lm_head.weight", f".{HEAD}")) or name == "lm_head.weight" else name


def known_to_transformers(name: str) -> bool:
    """Say whether transformers finds a tensor of this name by itself."""
    return plain_name(name) in (name, f"{_BODY}{name}") or name == "lm_head.weight"


def is_buffer(name: str) -> bool:
    """Say whether a plain name is that of a table that is not a weight."""
    return f".{name}".endswith(_BUFFERS)


def foreign(name: str) -> tuple[str, str] | None:
    """Return what is wrong and what to do when the name shows an adapter or a quantized checkpoint; else None."""
    parts = name.split(".")
    if any(part.startswith(_ADAPTER) for part in parts):
        return "holds an adapter that is not merged into the model", MERGE
    if parts[-1] in _QUANTIZED or "quant_state" in parts:
        return "the checkpoint is quantized already", UNQUANTIZED
    return None


MERGE = (
    "merge it first: with peft, AutoPeftModelForCausalLM.from_pretrained(adapter).merge_and_unload()"
    ".save_pretrained(folder), and copy the tokenizer beside it"
)

UNQUANTIZED = "give the checkpoint that it was made from, in fp16, bf16 or fp32"

# ruff: noqa: PLC0415 - names and shapes are known without torch, which takes seconds to import

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"

INDEX_SUFFIX = ".index.json"

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}\.(?:safetensors|bin)")

_DTYPES = ("F16", "BF16", "F32", "F64")
"""The dtypes that weights may have, by safetensors' names."""

_DAMAGED = "download the file again; it is truncated or was not written completely"

_SAVED_ANEW = "transformers leaves it out: load the checkpoint there, and save it with save_pretrained()"


class WeightReader(Protocol):
    """Gives the tensors of a GPT-NeoX by their names in a checkpoint."""

    @property
    def architecture(self) -> Architecture: ...

    def read(self, name: str) -> Tensor:
        """Return one tensor in the dtype it is stored in, but fp64 as fp32.

        Raises:
            SourceError: it is missing, damaged or not finite.
        """
        ...


class WeightFiles:
    """A folder's weights. Opening checks every name and shape against the architecture; tensors are read on demand.

    Names may be those that other programs leave, see :mod:`pythia_quant.model.weights`. Where config.json says that the
    attention has no biases they are 0, whatever is stored; the head or embedding matrix that a checkpoint has not,
    because they are tied, is the other of the two.

    Attributes:
        architecture: the shape they must have.
        plain: whether transformers finds the same tensors by itself.
    """

    def __init__(self, files: list[Path], architecture: Architecture) -> None:
        self.architecture = architecture
        self._pickled: dict[Path, dict[str, Tensor]] = {}
        self._stored: dict[str, tuple[Path, str]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        self.plain = True
        for file in files:
            for stored, (shape, dtype) in self._contents(file).items():
                name = plain_name(stored)
                if not shape or is_buffer(name):  # a number, such as a count of steps
                    continue
                if not architecture.attention_biases and name.endswith(ATTENTION_BIASES):
                    continue  # as in transformers, whose model has no place for them
                if other := foreign(stored):
                    raise SourceError(f"{other[0]} (its tensor {stored})", where=str(file), hint=other[1])
                if dtype not in _DTYPES:
                    what = f"{stored} is {dtype}; only {', '.join(_DTYPES)} are handled"
                    raise SourceError(what, where=str(file), hint=f"if it is quantized already, {UNQUANTIZED}")
                if name in self._stored:
                    before, earlier = self._stored[name]
                    both = f"{earlier} and {stored}" if stored != earlier else f"{stored}, in {before.name} too,"
                    raise SourceError(f"holds {name} twice: as {both}", where=str(file), hint="keep the right one")
                self._stored[name], shapes[name] = (file, stored), shape
                self.plain &= known_to_transformers(stored)
        self._check(shapes, files)

    def read(self, name: str) -> Tensor:
        import torch

        if name not in self._stored:
            if name.endswith(ATTENTION_BIASES):
                return torch.zeros(self.architecture.tensor_shapes()[name])
            name = EMBEDDING if name == HEAD else HEAD
        file, stored = self._stored[name]
        if file in self._pickled:
            tensor = self._pickled[file][stored]
        else:
            with safe_open(file, framework="pt") as opened:
                tensor = opened.get_tensor(stored)
        if tensor.dtype == torch.float64:
            tensor = tensor.float()
        if not all_finite(tensor):
            bad = int((~torch.isfinite(tensor)).sum())
            raise SourceError(
                f"{bad:,} of {tensor.numel():,} values of {name} are not finite",
                where=str(file),
                hint="the checkpoint is damaged: download it again, or use another revision",
            )
        return tensor

    def _contents(self, file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and dtype of each tensor of a file, dtypes as safetensors abbreviates them."""
        if file.suffix == ".bin":
            from pythia_quant.model.pickled import described, read_pickle

            self._pickled[file], alone = read_pickle(file)
            self.plain &= alone
            return {name: described(tensor) for name, tensor in self._pickled[file].items()}
        try:
            with safe_open(file, framework="numpy") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise SourceError(f"cannot be read ({reason})", where=str(file), hint=_DAMAGED) from error

    def _check(self, shapes: dict[str, tuple[int, ...]], files: list[Path]) -> None:
        where = str(files[0].parent)
        expected = self.architecture.tensor_shapes()
        for name, shape in expected.items():
            if name not in shapes and not self._may_lack(name):
                others = [stored for other, (_, stored) in self._stored.items() if other not in expected]
                hint = f"the names are others, such as {short(others[0])}" if others else "is a shard missing?"
                raise SourceError(f"the tensor {name} is missing", where=where, hint=hint)
            if shapes.get(name, shape) != shape:
                raise SourceError(
                    f"{name} has shape {list(shapes[name])}; config.json says {list(shape)}",
                    where=str(self._stored[name][0]),
                    hint="config.json and weights do not belong together",
                )
        for name in shapes:
            if name not in expected:
                file, stored = self._stored[name]
                raise SourceError(f"the tensor {stored} is none of GPT-NeoX's", where=str(file), hint=_SAVED_ANEW)

    def _may_lack(self, name: str) -> bool:
        if self.architecture.tied and name in (HEAD, EMBEDDING):
            return HEAD in self._stored or EMBEDDING in self._stored
        return not self.architecture.attention_biases and name.endswith(ATTENTION_BIASES)


def all_finite(tensor: Tensor) -> bool:
    """Say whether all values are finite: least and greatest are, and are NaN where one value is.

    That takes a twentieth of the time of asking each value.
    """
    return tensor.numel() == 0 or all(bool(bound.isfinite()) for bound in tensor.aminmax())


def weight_file_names(index: Path) -> list[str]:
    """Return the names of the shards that an index file (``*.index.json``) lists.

    Raises:
        SourceError: the index is damaged, or names a file outside its folder.
    """
    shards = read_object(index, SourceError, "download the model again").get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise SourceError("is not an index of weight files", where=str(index), hint="download the model again")
    for name in shards.values():
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
            raise SourceError(f"names {short(name)}, which is not a weight file beside it", where=str(index))
    return sorted(set(shards.values()))
