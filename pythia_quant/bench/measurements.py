"""Measurements of single rows: made in another process, and not made again where an earlier call has made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pythia_quant.bench.subject import Subject
from pythia_quant.core import process
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.files import Cache, replace_file
from pythia_quant.core.foreign_files import read_object
from pythia_quant.core.progress import Steps
from pythia_quant.core.text import short
from pythia_quant.records.manifest import Record

R = TypeVar("R", bound=Record)

_CACHE = Cache("measurements", 200_000_000)


@dataclass(frozen=True)
class Measurements:
    """Makes the measurements of single rows, or reads those that an earlier call has made.

    Drift and LAMBADA depend on nothing but contents, versions and the processor. So an interrupted call's are in the
    work folder, and those of the source in the user's cache, too. Speed is not measured here: a ratio of speeds is
    honest only if both were measured side by side.

    Attributes:
        worker: the process that measures.
        work: the work folder, with a file for each measurement.
        steps: shows progress.
        threads: the number of threads of the runtimes.
        source_key: a hash of all that measurements of the source depend on, beside the row and `whole`; None to
            measure the source in any case.
    """

    worker: process.Worker
    work: Path
    steps: Steps
    threads: int
    source_key: str | None

    def make(
        self,
        what: str,
        task: Callable[..., dict[str, Any]],
        subject: Subject,
        arguments: dict[str, Any],
        *,
        whole: bool,
    ) -> dict[str, Any]:
        """Return a measurement of a row.

        Args:
            what: the kind of measurement.
            task: the function that makes it; its keyword arguments are `arguments`, `subject` and `threads`.
            subject: the row's model.
            arguments: the other arguments.
            whole: whether the model is run whole, not layer by layer.

        Raises:
            PythiaQuantError: the model cannot be measured, or a file of the work folder is damaged.
        """
        path, key = self.work / f"{subject.name}.{what}.json", self._key(what, subject, whole=whole)
        with self.steps.step(f"{what} of {subject.name}") as progress:
            if not path.exists() and key and (content := _CACHE.read(key)):
                replace_file(path, _sealed(content))
            if not path.exists():
                arguments = arguments | {"subject": subject.model_dump(mode="json"), "threads": self.threads}
                try:
                    content = json.dumps(self.worker.call(task, arguments, progress)).encode()
                except BenchmarkError as error:
                    message = f"measuring {what} of {subject.name}: {error.what}"
                    raise BenchmarkError(message, where=error.where, hint=error.hint) from error
                replace_file(path, _sealed(content))
                if key:
                    _CACHE.write(key, content)
        return _unsealed(path)

    def _key(self, what: str, subject: Subject, *, whole: bool) -> str | None:
        """Return the key of a measurement in the cache; None for one that is not kept there."""
        if self.source_key is None or subject.dtype is None:
            return None
        parts = json.dumps([self.source_key, what, subject.name, subject.dtype, whole])
        return hashlib.sha256(parts.encode()).hexdigest()


def _sealed(content: bytes) -> str:
    """Return a measurement, which is JSON data, as it stands in a work folder: with its hash."""
    return json.dumps({"sha256": hashlib.sha256(content).hexdigest(), "measurement": content.decode()})


def _unsealed(path: Path) -> dict[str, Any]:
    """Read a measurement in a work folder.

    Raises:
        BenchmarkError: the file is damaged.
    """
    hint = "remove the file; it is then measured again"
    data = read_object(path, BenchmarkError, hint)
    content = str(data.get("measurement")).encode("utf-8", "replace")
    if hashlib.sha256(content).hexdigest() != data.get("sha256"):
        raise BenchmarkError("is not as it was written", where=str(path), hint=hint)
    measurement: dict[str, Any] = json.loads(content)
    return measurement


def as_record(kind: type[R], measurement: dict[str, Any], work: Path) -> R:
    """Make a record of a measurement, which may be that of an interrupted call.

    Args:
        kind: the class of the record.
        measurement: the fields of the record, as JSON data.
        work: the folder of measurements, for the message.

    Raises:
        BenchmarkError: the measurement is damaged.
    """
    try:
        return kind.model_validate(measurement)
    except ValidationError as error:
        key = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
        hint = "remove the folder; everything is then measured again"
        raise BenchmarkError(
            f"a measurement of an earlier call cannot be read: {short(key)}", where=str(work), hint=hint
        ) from error
