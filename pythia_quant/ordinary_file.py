"""Read files that somebody else may have written: only ordinary files, and none that is too large for its purpose."""

from __future__ import annotations

import os
from pathlib import Path

from pythia_quant.errors import PythiaQuantError


def read_ordinary(path: Path, most_bytes: int, kind: type[PythiaQuantError], hint: str = "") -> bytes:
    """Return a file's content.

    Args:
        path: an ordinary file: a pipe would never end.
        most_bytes: the largest size that is read.
        kind: the class of the error to raise.
        hint: what the user can do when the file cannot be read.

    Raises:
        PythiaQuantError: of class `kind`; the file is missing, not an ordinary file, too large, or not readable.
    """
    where = str(path)
    try:
        if not path.is_file():
            raise kind("is no file" if path.exists() else "there is no such file", where=where, hint=hint)
        size = path.stat().st_size
        content = b"" if size > most_bytes else _read(path, most_bytes + 1)
        if (size := max(size, len(content))) > most_bytes:
            most = f"{most_bytes / 1e6:,.1f} MB"
            raise kind(f"has {size / 1e6:,.1f} MB, too many for what it is: {most} at most", where=where, hint=hint)
        return content
    except OSError as error:
        raise kind(f"cannot be read ({error.strerror})", where=where, hint=hint) from error
    except ValueError as error:  # a NUL in the name
        raise kind(f"cannot be read ({error})", where=where, hint=hint) from error


def _read(path: Path, most_bytes: int) -> bytes:
    """Read a file's first bytes and never block: some files in /proc look ordinary, but reading them waits."""

    def open_nonblocking(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with open(path, "rb", opener=open_nonblocking) as file:
        return file.read(most_bytes) or b""
