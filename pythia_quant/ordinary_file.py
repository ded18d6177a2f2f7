"""Files that somebody else may have written: only ordinary ones are opened, and none that is too large for its kind."""

from __future__ import annotations

import os
from pathlib import Path

from pythia_quant.errors import PythiaQuantError


def read_ordinary(path: Path, most_bytes: int, kind: type[PythiaQuantError], hint: str = "") -> bytes:
    """Return a file's content.

    Args:
        path: an ordinary file: a pipe would never end.
        most_bytes: a larger one is refused unread.
        kind: what is raised.
        hint: what the user can do when it cannot be read.

    Raises:
        PythiaQuantError: of that kind; it is missing, no ordinary file, too large, or may not be read.
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
    """Read a file's first bytes without waiting for any: some of the kernel's, in /proc, look ordinary and are not."""

    def opened(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with open(path, "rb", opener=opened) as file:
        return file.read(most_bytes) or b""
