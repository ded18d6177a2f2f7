"""Results of jobs by their keys, in a folder or any place that fsspec reaches: each is there whole, or not at all."""

from __future__ import annotations

import posixpath
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from pythia_quant.core.errors import BenchmarkError, PythiaQuantError, StudyError
from pythia_quant.core.files import replace_file
from pythia_quant.core.foreign_files import parse_json
from pythia_quant.core.text import redacted, short
from pythia_quant.records.manifest import Record
from pythia_quant.records.results import Results
from pythia_quant.records.results_check import find_fault

R = TypeVar("R", bound=Record)

_RESULTS, _FAILURES = "results", "failures"


class JobResult(Record):
    """What one job measured.

    Attributes:
        key: the job's key.
        row: the row's name.
        settings: the variant's settings; None for the source.
        non_embedding_parameters: the parameters of the source outside its embeddings.
        seconds: the time of the parts of the job: ``reference``, ``convert``, ``measure``.
        results: the measurement, with this row only.
    """

    key: str
    row: str
    settings: dict[str, Any] | None
    non_embedding_parameters: int
    seconds: dict[str, float]
    results: Results


class Failure(Record):
    """Why a job failed: an error's three parts."""

    key: str
    what: str
    where: str = ""
    hint: str = ""
    created: datetime

    @classmethod
    def of(cls, key: str, error: PythiaQuantError) -> Failure:
        """Return the record of an error."""
        now = datetime.now(UTC)
        return cls(key=key, what=error.what, where=error.where or "", hint=error.hint or "", created=now)


class Store:
    """Results and failures of jobs.

    A result is written in one piece: in a folder under another name first, elsewhere by one request of the file system.

    Args:
        url: a folder, or an address that fsspec understands, such as ``s3://bucket/study``.

    Raises:
        StudyError: there is no such file system, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError, OSError) as error:
            raise StudyError(f"cannot be opened: {short(error)}", where=self._shown(), hint=_HINT) from error

    def check(self) -> None:
        """Make the store, and refuse it if nothing can be written there.

        Raises:
            StudyError: nothing can be written there.
        """
        try:
            for part in (_RESULTS, _FAILURES):
                self._files.makedirs(posixpath.join(self._root, part), exist_ok=True)
            self._write(posixpath.join(self._root, ".probe"), "")
            self._files.rm_file(posixpath.join(self._root, ".probe"))
        except Exception as error:  # each file system has errors of its own
            raise StudyError(f"cannot be written: {short(error)}", where=self._shown(), hint=_HINT) from error

    def finished(self) -> frozenset[str]:
        """Return the keys of all results."""
        return self._names(_RESULTS)

    def failed(self) -> frozenset[str]:
        """Return the keys of all failures."""
        return self._names(_FAILURES)

    def has(self, key: str) -> bool:
        """Say whether there is a result."""
        return bool(self._files.exists(self._path(_RESULTS, key)))

    def read(self, key: str) -> JobResult:
        """Return a result.

        Raises:
            StudyError: it is damaged.
        """
        result = self._read(JobResult, _RESULTS, key)
        if fault := find_fault(result.results):
            raise StudyError(f"{fault.key}: {fault.why}", where=self._shown(_RESULTS, key), hint=_DAMAGED)
        return result

    def read_failure(self, key: str) -> Failure:
        """Return a failure; for errors see :meth:`read`."""
        return self._read(Failure, _FAILURES, key)

    def write(self, result: JobResult) -> None:
        """Keep a result; an earlier failure of the same job is forgotten.

        Raises:
            StudyError: it cannot be written.
        """
        self._keep(_RESULTS, result.key, result)
        self.forget(result.key)

    def fail(self, failure: Failure) -> None:
        """Keep a failure; for errors see :meth:`write`."""
        self._keep(_FAILURES, failure.key, failure)

    def forget(self, key: str) -> None:
        """Forget the failure of a job, if there is one."""
        path = self._path(_FAILURES, key)
        if self._files.exists(path):
            self._files.rm_file(path)

    def _names(self, part: str) -> frozenset[str]:
        folder = posixpath.join(self._root, part)
        self._files.invalidate_cache()
        if not self._files.exists(folder):
            return frozenset()
        paths = self._files.ls(folder, detail=False)
        return frozenset(posixpath.basename(path).removesuffix(".json") for path in paths if path.endswith(".json"))

    def _read(self, kind: type[R], part: str, key: str) -> R:
        where = self._shown(part, key)
        try:
            data = parse_json(self._files.cat_file(self._path(part, key)), where, BenchmarkError, _DAMAGED)
            return kind.model_validate(data)
        except (BenchmarkError, ValidationError, OSError) as error:
            raise StudyError(f"is damaged: {short(error)}", where=where, hint=_DAMAGED) from error

    def _keep(self, part: str, key: str, record: Record) -> None:
        try:
            self._write(self._path(part, key), record.model_dump_json())
        except Exception as error:  # each file system has errors of its own
            raise StudyError(f"cannot be written: {short(error)}", where=self._shown(), hint=_HINT) from error

    def _write(self, path: str, content: str) -> None:
        if isinstance(self._files, LocalFileSystem):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            replace_file(Path(path), content)
        else:
            self._files.pipe_file(path, content.encode())

    def _path(self, part: str, key: str) -> str:
        return posixpath.join(self._root, part, f"{key}.json")

    def _shown(self, part: str = "", key: str = "") -> str:
        return redacted("/".join(filter(None, (self.url, part, key and f"{key}.json"))))


_HINT = "name a folder, or an address that fsspec reaches, with --store"
_DAMAGED = "remove the file; the same command computes it again"
