"""The weights of a checkpoint: tensors at rest, read one at a time by the names that GPT-NeoX has on the hub.

Other programs change these names when they save a model; the names are translated here.
"""

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

# Parts that torch.compile, data parallel wrappers, activation checkpointing, PEFT and Lightning put into a name.
_WRAPPERS = {
    "_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "base_model",
    "model",
}  # fmt: skip

# Old checkpoints hold a causal mask and rotary tables, which are computed again at run time.
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
    """Translate a tensor's name into its name in a GPT-NeoX checkpoint on the hub.

    Parts that wrappers add are removed, and so is a program's own name for the whole model, such as ``student.`` or
    ``llm.``. ``lm_head``, as transformers calls it elsewhere, becomes the head.
    """
    name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    _, body, rest = name.rpartition(_BODY)
    if body or name.startswith(_WITHOUT_HEAD):
        return f"{_BODY}{rest}"
    return HEAD if name.endswith((".lm_head.weight", f".{HEAD}")) or name == "lm_head.weight" else name


def known_to_transformers(name: str) -> bool:
    """Say whether transformers itself loads a tensor of this name."""
    return plain_name(name) in (name, f"{_BODY}{name}") or name == "lm_head.weight"


def is_buffer(name: str) -> bool:
    """Say whether a plain name is the name of a mask or table, which is not a weight."""
    return f".{name}".endswith(_BUFFERS)


def name_fault(name: str) -> tuple[str, str] | None:
    """Recognize an adapter or a quantized checkpoint by the name of a tensor.

    Returns:
        What is wrong, and what the user can do; None for any other name.
    """
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
    """Reads the tensors of a GPT-NeoX by their names in a checkpoint."""

    @property
    def architecture(self) -> Architecture: ...

    def read(self, name: str) -> Tensor:
        """Return one tensor in the dtype it is stored in; fp64 becomes fp32.

        Raises:
            SourceError: the tensor is missing, damaged or not finite.
        """
        ...


class WeightFiles:
    """A folder's weights. Opening checks every name and shape against the architecture; tensors are read on demand.

    Tensors may have the names that other programs write, see :func:`plain_name`. Attention biases are 0 where
    config.json says that there are none, even if the files hold some. Where embeddings and head are tied and the files
    hold only one matrix, it is read under both names.

    Attributes:
        architecture: the shape that the tensors must have.
        plain: whether transformers itself loads the same tensors from these files.
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
                if fault := name_fault(stored):
                    raise SourceError(f"{fault[0]} (its tensor {stored})", where=str(file), hint=fault[1])
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
        """Return the shape and dtype of each tensor of a file; dtypes have the names that safetensors gives them."""
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
    """Say whether all values are finite.

    Only the least and the greatest are looked at: both are NaN if any value is. That takes a twentieth of the time that
    a look at each value takes.
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
