"""The errors of this package. They share one base class, so that the command line can print them and exit with 2."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class PythiaQuantError(Exception):
    """An error that the user can do something about.

    Args:
        what: what is wrong, in one sentence.
        where: the file, and the key, tensor or line in it.
        hint: what to do next.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(self._message())

    def _message(self) -> str:
        message = f"{self.where}: {self.what}" if self.where else self.what
        return f"{message}\n  {self.hint}" if self.hint else message


class ArgumentError(PythiaQuantError):
    """An argument of the command line or of a function cannot be used, or needs a package that is not installed."""


class UnknownNameError(PythiaQuantError, KeyError):
    """Results have no row or no value of this name."""

    __str__ = Exception.__str__  # KeyError's would quote the message


class RecipeError(PythiaQuantError):
    """The recipe, or an option that replaces one of its settings, cannot be used."""


class StudyError(PythiaQuantError):
    """A study file cannot be used, or the results of a study cannot be stored or read."""


class SourceError(PythiaQuantError):
    """The checkpoint or its tokenizer is missing, damaged, or of an unsupported kind."""


class CorpusError(PythiaQuantError):
    """A calibration or evaluation text is missing or too short, or the two texts overlap."""


class QuantizationError(PythiaQuantError):
    """Tensors cannot be quantized with these settings: shapes, non-finite values, or calibration do not allow it."""


class ArtifactError(PythiaQuantError):
    """An artifact is incomplete or altered, stands where another is to be made, or computes the wrong values."""


class BenchmarkError(PythiaQuantError):
    """A measurement could not be made or read back."""


class StorageError(PythiaQuantError):
    """The operating system does not let us read or write a file: the disk is full, a permission is missing, …"""


class HubError(PythiaQuantError):
    """The hub refuses a request or cannot be reached, or a repository has the wrong content."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the closest of `choices`, or the list of choices when none is close."""
    choices = sorted(choices)
    matches = get_close_matches(word, choices, n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"choose from: {', '.join(choices)}"


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
    """Return the error to show to the user, or None when `error` has another cause than storage.

    Args:
        error: the exception that Python or a library raised.
        where: the path that was read or written. The message shows the path in `error` instead when there is one,
            unless that is a hidden scratch file or folder beside `where`.
    """
    words = _WORDS.get(_number(error) or 0)
    if words is None:
        return None
    filename = getattr(error, "filename", None)
    target = Path(where)
    if isinstance(filename, str) and not (where and filename.startswith(str(target.parent / f".{target.name}."))):
        where = filename
    if not where and _number(error) == errno.ENOENT:
        where = "the current folder"  # os.getcwd() fails without a path when that folder was removed
    return StorageError(words[0], where=str(where), hint=words[1])


def without_links(path: Path) -> Path:
    """Return the absolute path without symbolic links, with ``~`` replaced by the user's home folder.

    Circular links and unknown users stay in the path: opening it then says what is wrong.
    """
    return Path(os.path.realpath(os.path.expanduser(path)))  # noqa: PTH111 - Path's methods raise for such paths


@contextmanager
def storing(where: Path | str) -> Iterator[None]:
    """Turn the operating system's errors within this context into a :class:`~pythia_quant.core.errors.StorageError`."""
    try:
        yield
    except Exception as error:
        if storage_error := refusal(error, where):
            raise storage_error from error
        raise


def _number(error: Exception) -> int | None:
    """Return the errno of an exception. safetensors has it only in the message; numpy leaves it out."""
    if isinstance(error, OSError):
        disk_full = error.errno is None and re.fullmatch(r"\d+ requested and \d+ written", str(error))
        return errno.ENOSPC if disk_full else error.errno
    match = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(match[1]) if match else None
