"""Read pickled state dicts of all versions of ``torch.save``. Only tensors are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor

from pythia_quant.core.errors import SourceError

_ZIP = b"PK\x03\x04"
_DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
"""Safetensors' names of the dtypes that weights may have."""
_DAMAGED_PICKLE = "download the file again; it is truncated or was not written completely"


def read_pickle(file: Path) -> tuple[dict[str, Tensor], bool]:
    """Read a state dict, on its own or as one entry of what a training program saved.

    Returns:
        Its tensors, mapped where the file is a zip archive, as torch writes since 1.6; and whether the file holds
        nothing else. A step count or an optimizer's state beside them is left out.

    Raises:
        SourceError: it is damaged, holds code, or no tensors, or several sets of them.
    """
    content = _load(file)
    if not isinstance(content, Mapping):
        raise SourceError(f"holds {_kind(content)}, not tensors by their names", where=str(file))
    if tensors := _tensors(content):
        return tensors, len(tensors) == len(content)
    nested = {str(name): inner for name, part in content.items() if (inner := _tensors(part))}
    if len(nested) != 1:
        several = f"several sets of tensors ({', '.join(sorted(nested))})" if nested else "no tensors by their names"
        raise SourceError(
            f"holds {several}", where=str(file), hint="save the model's state_dict() alone, or save_pretrained()"
        )
    return next(iter(nested.values())), False


def described(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    """Return a pickled tensor's shape and dtype; in place of the latter, what keeps its values from being read."""
    if tensor.is_nested:
        return (tensor.size(0),), "nested"
    shape = tuple(tensor.shape)
    if tensor.device.type != "cpu":
        return shape, "without values"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():  # a few bytes for any number of them
        return shape, "made of fewer values than it has"
    return shape, _DTYPES.get(tensor.dtype, str(tensor.dtype))


def _load(file: Path) -> Any:
    try:
        with file.open("rb") as opened:
            mapped = opened.read(len(_ZIP)) == _ZIP
        if mapped and _is_packed(file):
            raise SourceError("is packed, as torch never writes it", where=str(file), hint=_DAMAGED_PICKLE)
        # weights_only: a pickle from a hub may hold code, and this loader refuses to run any.
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except SourceError:
        raise
    except (OSError, RuntimeError, ValueError, AttributeError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise SourceError(f"cannot be read ({reason})", where=str(file), hint=_DAMAGED_PICKLE) from error
    except Exception as error:  # pickle.UnpicklingError carries the advice to turn the protection off
        raise SourceError(
            "is not a plain file of tensors, and nothing else is loaded from a pickle",
            where=str(file),
            hint="use a checkpoint in safetensors",
        ) from error


def _is_packed(file: Path) -> bool:
    """Say whether a zip archive has compressed entries, of which few bytes may stand for any number."""
    with ZipFile(file) as archive:
        return any(entry.compress_type != ZIP_STORED for entry in archive.infolist())


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {
        name: part.detach()
        for name, part in content.items()
        if isinstance(name, str) and isinstance(part, Tensor) and part.layout == torch.strided
    }


def _kind(content: Any) -> str:
    return f"a {type(content).__name__}"
