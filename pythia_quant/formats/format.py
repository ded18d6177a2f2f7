"""What the rest of the program asks of a format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

from pythia_quant.core.settings import VariantSettings

if TYPE_CHECKING:
    from pythia_quant.formats.job import CodesReader, Job, Written
    from pythia_quant.model.architecture import Architecture
    from pythia_quant.model.weights import WeightReader
    from pythia_quant.runtimes.protocol import Layered, Runtime

S = TypeVar("S", bound=VariantSettings)


class Costs(NamedTuple):
    """What a conversion takes while it runs, the artifact itself left out.

    Attributes:
        memory: bytes.
        disk: bytes.
    """

    memory: int
    disk: int


class Format(ABC, Generic[S]):
    """One format: how its artifacts are written, read and run.

    A method imports what it needs when it is called, so that the table of formats needs neither torch nor a backend.

    Attributes:
        needs: modules that must be installed.
        extra: the extra of this package that installs them.
        equalizes: whether layers are equalized before they are rounded, see :mod:`pythia_quant.model.equalize`.
        on_gpu: whether its runtime can run on a GPU; one that cannot stays on the CPU whatever is asked for.
        in_layers: whether :meth:`open_layers` runs a model that is larger than memory.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    equalizes: ClassVar[bool] = False
    on_gpu: ClassVar[bool] = True
    in_layers: ClassVar[bool] = False

    @abstractmethod
    def write(self, job: Job[S]) -> Written:
        """Write weights and ``config.json`` into the job's folder.

        Raises:
            QuantizationError: the weights cannot be quantized by these settings.
            SourceError: a source tensor is missing or damaged.
        """

    @abstractmethod
    def open_weights(self, folder: Path) -> WeightReader:
        """Open an artifact's weights, dequantized, under the checkpoint's names.

        Raises:
            ArtifactError: a file is missing or damaged, or is not one that :meth:`write` leaves.
            SourceError: ``config.json`` is not that of a GPT-NeoX.
        """

    def open_codes(self, folder: Path) -> CodesReader:
        """Open an artifact whose integers another format can store; only GPTQ's are such.

        Raises:
            ArtifactError: as :meth:`open_weights`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no integers for other formats")

    @abstractmethod
    def streamed_bytes(self, folder: Path) -> int:
        """Return the bytes of weights that a decoded token reads: all but the embeddings, of which it reads a row.

        Raises:
            ArtifactError: a file is missing or damaged.
        """

    @abstractmethod
    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        """Import all that the runtime needs; return the function that :meth:`open_runtime` calls."""

    def open_runtime(self, folder: Path, threads: int, device: str = "cpu") -> Runtime:
        """Load an artifact into the runtime that its users run it with.

        Args:
            folder: the artifact.
            threads: for the whole process.
            device: ``cpu`` or ``cuda``.

        Raises:
            ArtifactError: a file is missing or damaged, or the runtime refuses it.
            BenchmarkError: it cannot run on `device`.
        """
        return self.import_runtime()(folder, threads, device)

    def open_layers(self, folder: Path, threads: int) -> Layered:
        """Open an artifact to run it with one layer's weights in memory at a time, where `in_layers` says that it can.

        Raises:
            ArtifactError: a file is missing or damaged, or the runtime refuses a layer.
        """
        raise NotImplementedError(f"{type(self).__name__} does not run layer by layer")

    def costs(self, architecture: Architecture, calibration_tokens: int) -> Costs:  # noqa: ARG002
        """Return about what a conversion takes while it runs; 0 where that is little."""
        return Costs(0, 0)

    def held_bytes(self, settings: S, architecture: Architecture, disk_bytes: int) -> int:  # noqa: ARG002
        """Return the bytes that the weights take in the runtime's memory, of files of `disk_bytes`."""
        return disk_bytes
