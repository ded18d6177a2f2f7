"""Recognize a folder that is no checkpoint in safetensors or ``pytorch_model.bin`` by the names of its files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from pythia_quant.core.errors import SourceError
from pythia_quant.core.text import printable
from pythia_quant.tensor_names import MERGE
from pythia_quant.weights import SAFETENSORS

ADAPTER = "adapter_config.json"
_SAVE = "load it with the program that wrote it and save it with transformers' save_pretrained()"
_KINDS = (
    (ADAPTER, "is an adapter (LoRA), not a whole model", MERGE),
    ("*.gguf", "holds GGUF", "give the checkpoint that it was made from, in safetensors"),
    ("tf_model*.h5", "holds TensorFlow weights", _SAVE),
    ("flax_model*.msgpack", "holds Flax weights", _SAVE),
    ("*.onnx", "holds an ONNX graph", "give the checkpoint that it was made from, in safetensors"),
    ("*.safetensors", "holds safetensors under another name", "call the file model.safetensors, or give it an index"),
    ("*.pth", "holds a file of torch", _SAVE),
    ("*.pt", "holds a file of torch", _SAVE),
    ("*.ckpt", "holds a training checkpoint", _SAVE),
)


_POINTER = b"version https://git-lfs.github.com/spec/"
"""The beginning of a pointer file, which stands for a file that git-lfs has not fetched (docs/spec.md of git-lfs)."""


def refuse_pointer(path: Path) -> None:
    """Refuse a pointer file, which a clone without git-lfs has in place of a large file.

    Raises:
        SourceError: the file is a pointer.
    """
    beginning = b""
    with suppress(OSError), path.open("rb") as file:  # the code that reads the whole file reports the error
        beginning = file.read(len(_POINTER))
    if beginning == _POINTER:
        raise SourceError(
            "is a pointer of git-lfs, not the file", where=str(path), hint="run git lfs pull in the clone"
        )


def found_instead(names: Iterable[str]) -> tuple[str, str] | None:
    """Return what the files are instead of a checkpoint, and what the user can do; None when they are not recognized.

    Args:
        names: the names of all files of a folder or repository, relative to it.
    """
    beside = {name for name in names if "/" not in name} - {SAFETENSORS}
    for pattern, what, hint in _KINDS:
        if name := min((name for name in beside if fnmatchcase(name, pattern)), default=None):
            return f"{what} ({printable(name)})", hint
    return None
