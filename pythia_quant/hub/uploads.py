"""The files of an upload, which tell how much of them has been read."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import BinaryIO, cast

from huggingface_hub import CommitOperationAdd

from pythia_quant.core.hub_files import Content
from pythia_quant.core.interrupt import interrupted
from pythia_quant.core.progress import Report

Tell = Callable[[int], None]


def uploads(files: Sequence[tuple[str, Content]], report: Report) -> list[CommitOperationAdd]:
    """Return files by their paths in the repository; reading them reports progress in MB of all."""
    at: dict[str, int] = {}
    megabytes = max(1, sum(content.bytes for _, content in files) // 1_000_000)
    lock = Lock()  # files are read by several threads

    def tell(path: str, position: int) -> None:
        with lock:
            at[path] = position
            done = min(sum(at.values()) // 1_000_000, megabytes - 1)
        report("uploading, MB", done, megabytes)

    return [_addition(path, content, partial(tell, path)) for path, content in files]


def _addition(path: str, content: Content, tell: Tell) -> CommitOperationAdd:
    addition = _Told(path_in_repo=path, path_or_fileobj=content.data)
    addition.tell = tell
    addition.upload_info.sha256 = bytes.fromhex(content.sha256)  # known, and so the file is not read for it again
    return addition


class _Told(CommitOperationAdd):
    tell: Tell

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:  # noqa: ARG002 - our own progress instead
        if isinstance(self.path_or_fileobj, bytes):
            yield io.BytesIO(self.path_or_fileobj)
        else:
            with _Reader(io.FileIO(Path(cast(str, self.path_or_fileobj)))) as file:
                file.told = self.tell
                yield cast(BinaryIO, file)


class _Reader(io.BufferedReader):
    told: Tell

    def read(self, size: int | None = -1) -> bytes:
        if interrupted.is_set():  # else the main thread, interrupted, would wait until all is sent
            raise InterruptedError
        content = super().read(size)
        self.told(self.tell())
        return content
