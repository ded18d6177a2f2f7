"""Arrays that an earlier call left: what a killed process or a full disk has cut short is one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pythia_quant.errors import PythiaQuantError


def load_array(
    path: Path,
    dtype: DTypeLike,
    shape: tuple[int | None, ...],
    kind: type[PythiaQuantError],
    hint: str = "",
    *,
    mapped: bool = False,
) -> NDArray[Any]:
    """Read a .npy file.

    Args:
        path: of the file.
        dtype: that it must have.
        shape: that it must have; None for any length.
        kind: what is raised.
        hint: what the user can do when it cannot be read.
        mapped: map it instead, copied on write: torch wants arrays that it may write to.

    Raises:
        PythiaQuantError: of that kind; it is missing, cut short, no array, or another one.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="c" if mapped else None)
    except Exception as error:  # the header is read as Python, which fails in ways of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise kind(f"cannot be read ({reason})", where=str(path), hint=hint) from error
    fits = array.dtype == dtype and len(array.shape) == len(shape)
    if not fits or any(wanted not in (None, length) for wanted, length in zip(shape, array.shape, strict=True)):
        what = f"holds {array.dtype} {list(array.shape)}, another array than belongs there"
        raise kind(what, where=str(path), hint=hint)
    return array
