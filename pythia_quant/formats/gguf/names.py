"""The names that llama.cpp gives the tensors of a GPT-NeoX, the order of their rows, and the name of the file."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.foreign_files import own_file
from pythia_quant.formats.tensor_files import AGAIN
from pythia_quant.model.architecture import CONTRACT, DENSE, EMBEDDING, EXPAND, FINAL_NORM, HEAD, MIXED, Architecture
from pythia_quant.recipe.gguf_variant import GgufType

ENDING = ".gguf"
_TOP = {EMBEDDING: "token_embd.weight", HEAD: "output.weight"}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    MIXED: "attn_qkv",
    DENSE: "attn_output",
    "post_attention_layernorm": "ffn_norm",
    EXPAND: "ffn_up",
    CONTRACT: "ffn_down",
}


def tensor_name(name: str) -> str:
    """Return the name in a GGUF file of a tensor with this name in a checkpoint."""
    if name in _TOP:
        return _TOP[name]
    part = name.rpartition(".")[2]
    if name.startswith(FINAL_NORM):
        return f"output_norm.{part}"
    _, _, index, *inner, _ = name.split(".")
    return f"blk.{index}.{_IN_LAYER['.'.join(inner)]}.{part}"


def separate(rows: Tensor, shape: Architecture) -> Tensor:
    """Reorder the rows of query_key_value from [head, 3, size], as checkpoints have them, to [3, head, size]."""
    return rows.view(shape.heads, 3, shape.head_size, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def interleave(rows: Tensor, shape: Architecture) -> Tensor:
    """Undo :func:`separate`."""
    return rows.view(3, shape.heads, shape.head_size, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def is_mixed(name: str) -> bool:
    """Return whether a tensor of a checkpoint is the weight or the bias of query_key_value."""
    return f".{MIXED}." in name


def file_name(weights: GgufType) -> str:
    """Return the name of an artifact's file. Ollama and the hub read the type of the layers in it."""
    return f"model-{weights.upper()}{ENDING}"


def find_file(folder: Path) -> Path:
    """Return an artifact's GGUF file.

    Raises:
        ArtifactError: there is none, or more than one.
    """
    names = sorted(path.name for path in folder.glob(f"*{ENDING}")) if folder.is_dir() else []
    file = own_file(folder, names[0], ArtifactError) if len(names) == 1 else None
    if file is None:
        what = f"has {', '.join(names)[:200]}; one is expected" if names else f"has no file *{ENDING}"
        raise ArtifactError(what, where=str(folder), hint=AGAIN)
    return file
