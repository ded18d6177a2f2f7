"""What the operating system refuses to read or write, as one error that says what, where, and what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pythia_quant.errors import StorageError

_ELSEWHERE = "choose another folder"
_WORDS = {
    errno.ENOSPC: ("cannot be written: the disk is full", f"free some of it, or {_ELSEWHERE}"),
    errno.EDQUOT: ("cannot be written: your share of this disk is used up", f"free some of it, or {_ELSEWHERE}"),
    errno.EFBIG: ("cannot be written: files may not become so large here", "see ulimit -f, and this kind of disk"),
    errno.EROFS: ("cannot be written: the disk is read-only", _ELSEWHERE),
    errno.EACCES: ("may not be read or written (permission denied)", f"change its permissions, or {_ELSEWHERE}"),
    errno.EPERM: ("may not be changed (operation not permitted)", f"change its permissions, or {_ELSEWHERE}"),
    errno.ENAMETOOLONG: ("its name is too long for this disk", "choose a shorter one"),
    errno.EEXIST: ("something of this name is in the way", "move it, or choose another name"),
    errno.ENOTDIR: ("a file is where a folder is needed", "move it, or choose another name"),
    errno.ENOENT: ("there is no such file or folder, or none can be made there", "see whether it was moved or removed"),
    errno.EBUSY: (
        "cannot be replaced: a disk is mounted there, or it is the current folder",
        "choose a folder below it",
    ),
    errno.EISDIR: ("is a folder where a file is needed", "move it, or choose another name"),
    errno.ELOOP: ("its symbolic links lead in a circle", "mend the links"),
    errno.EIO: ("the disk or terminal fails (input/output error)", _ELSEWHERE),
    errno.EBADF: ("is not open for this", "see how the program was started"),
    errno.EMFILE: ("too many files are open at once", "allow more: ulimit -n"),
    errno.ENFILE: ("too many files are open on this machine", "end other programs"),
}


def refusal(error: Exception, where: Path | str = "") -> StorageError | None:
    """Return the error for the user; None for what is no matter of storage.

    Args:
        error: what a library or Python raised.
        where: what was read or written. A path that the error itself names is shown instead, but not one of a hidden
            file or folder beside `where`, in which that is made.
    """
    known = _WORDS.get(_number(error) or 0)
    if known is None:
        return None
    named = getattr(error, "filename", None)
    target = Path(where)
    if isinstance(named, str) and not (where and named.startswith(str(target.parent / f".{target.name}."))):
        where = named
    if not where and _number(error) == errno.ENOENT:
        where = "the current folder"  # the one that has no name: Python asked where it is
    return StorageError(known[0], where=str(where), hint=known[1])


def without_links(path: Path) -> Path:
    """Return a path as an absolute one without links, ``~`` being the user's folder.

    Links that lead in a circle and users that there are not stay as they are: opening the path says what is wrong.
    """
    return Path(os.path.realpath(os.path.expanduser(path)))  # noqa: PTH111 - Path's raise for those


@contextmanager
def storing(where: Path | str) -> Iterator[None]:
    """Raise a :class:`~pythia_quant.errors.StorageError` for what the operating system refuses meanwhile."""
    try:
        yield
    except Exception as error:
        if refused := refusal(error, where):
            raise refused from error
        raise


def _number(error: Exception) -> int | None:
    """Return the operating system's number of an error, which safetensors and numpy keep in words or leave out."""
    if isinstance(error, OSError):
        short = error.errno is None and re.fullmatch(r"\d+ requested and \d+ written", str(error))
        return errno.ENOSPC if short else error.errno
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else None
