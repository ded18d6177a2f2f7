"""What a search takes of the processor, beside one conversion and one measurement."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

from pythia_quant.core import process
from pythia_quant.records.manifest import Record


class Spent(Record):
    """The processor's time of a trial, in seconds.

    Attributes:
        converting: of the conversion, with the process that checks it.
        measuring: of the measurement, with the reference if it was not kept.
    """

    converting: float
    measuring: float

    @property
    def total(self) -> float:
        """Of both."""
        return self.converting + self.measuring


@dataclass(frozen=True)
class Cost:
    """What a search took, in seconds of the processor; work that was kept counts as when it was done.

    Attributes:
        alone: to find what each tensor costs alone.
        foreseen: to compute choices before they are converted.
        trials: to convert and measure choices on search and selection text.
        once: one conversion of the outcome and its measurement on the evaluation text: what `run` does without speed.
        table: for the last table, the outcome's own line included.
    """

    alone: float
    foreseen: float
    trials: float
    once: float
    table: float

    @property
    def search(self) -> float:
        """Of everything until a choice was made."""
        return self.alone + self.foreseen + self.trials

    @property
    def ratio(self) -> float | None:
        """The search over one conversion and measurement; None if nothing was chosen."""
        return self.search / self.once if self.once else None


class Meter:
    """Reads the processor's time of this process, of its children that have ended, and of a worker."""

    def __init__(self, worker: process.Worker | process.Here) -> None:
        self._worker = worker

    def seconds(self) -> float:
        """Return all of it, in seconds."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        here = time.process_time() + ended.ru_utime + ended.ru_stime
        return here if isinstance(self._worker, process.Here) else here + float(self._worker.call(own_seconds, {}))


def own_seconds() -> float:
    """Return the processor's time of the process that this is called in, in seconds."""
    return time.process_time()
