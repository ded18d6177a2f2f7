"""Read arrays that an earlier call wrote. A file cut short by a killed process or a full disk is one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pythia_quant.core.errors import PythiaQuantError


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
        path: the file.
        dtype: the dtype that the array must have.
        shape: the shape that the array must have; None stands for any length.
        kind: the class of the error to raise.
        hint: what the user can do when the file cannot be read.
        mapped: whether to map the file, copied on write, because torch wants arrays that it may write to.

    Raises:
        PythiaQuantError: of class `kind`; the file is missing, cut short, or no array, or has another dtype or shape.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="c" if mapped else None)
    except Exception as error:  # numpy parses the header as Python source, which can raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise kind(f"cannot be read ({reason})", where=str(path), hint=hint) from error
    fits = array.dtype == dtype and len(array.shape) == len(shape)
    if not fits or any(expected not in (None, length) for expected, length in zip(shape, array.shape, strict=True)):
        what = f"holds {array.dtype} {list(array.shape)}, another array than belongs there"
        raise kind(what, where=str(path), hint=hint)
    return array
