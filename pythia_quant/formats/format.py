"""The classes that every format implements: one reads and runs artifacts, one also writes them."""

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
    """What a conversion takes while it runs.

    Attributes:
        memory: bytes of memory.
        disk: bytes on disk beside the artifact.
    """

    memory: int
    disk: int


class Opener(ABC):
    """How artifacts of one kind are read and run, whoever made them.

    A method imports what it needs when it is called, so that the table of formats needs neither torch nor a backend.

    Attributes:
        needs: the names of packages that must be installed, which are those of their modules.
        extra: the extra of this package that installs them; empty if its own dependencies are enough.
        on_gpu: whether the runtime can run on a GPU; one that cannot runs on the CPU, whatever device a user names.
        in_layers: whether :meth:`open_layers` can run a model that is larger than memory.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    on_gpu: ClassVar[bool] = True
    in_layers: ClassVar[bool] = False

    @abstractmethod
    def open_weights(self, folder: Path) -> WeightReader | None:
        """Open an artifact's weights, dequantized, under the checkpoint's names; None if they cannot be taken apart.

        Raises:
            ArtifactError: a file is missing or damaged.
            SourceError: ``config.json`` is not that of a GPT-NeoX.
        """

    @abstractmethod
    def streamed_bytes(self, folder: Path) -> int:
        """Return the bytes of weights that the runtime reads to decode a token: all but the embeddings.

        Raises:
            ArtifactError: a file is missing or damaged.
        """

    @abstractmethod
    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        """Import the modules of the runtime; return the function that :meth:`open_runtime` calls.

        A measurement of load times imports first, and then times only the call.
        """

    def try_elsewhere(self, folder: Path) -> None:  # noqa: B027 - most runtimes end no process
        """Load an artifact in another process first, where the runtime would end the process that it is in.

        Raises:
            ArtifactError: the other process ended, or the artifact was refused there.
        """

    def open_runtime(self, folder: Path, threads: int, device: str = "cpu") -> Runtime:
        """Load an artifact into the runtime that users run it with.

        Args:
            folder: the artifact.
            threads: the threads that the process may use.
            device: ``cpu`` or ``cuda``.

        Raises:
            ArtifactError: a file is missing or damaged, or the runtime refuses the artifact.
            BenchmarkError: the runtime cannot run on `device`.
        """
        return self.import_runtime()(folder, threads, device)

    def open_layers(self, folder: Path, threads: int) -> Layered:
        """Open an artifact to run it layer by layer, with one layer's weights in memory, if `in_layers` is true.

        Raises:
            ArtifactError: a file is missing or damaged, or the runtime refuses a layer.
        """
        raise NotImplementedError(f"{type(self).__name__} does not run layer by layer")


class Format(Opener, Generic[S]):
    """One format: how its artifacts are written, read and run.

    Attributes:
        held: what the processes of a conversion hold of a model that takes nothing: bytes, measured.
        held_of_weights: what they hold besides for each byte of the artifact's weights, measured.
    """

    held: ClassVar[int] = 720_000_000
    held_of_weights: ClassVar[float] = 1.4

    def equalizes(self, settings: S) -> bool:  # noqa: ARG002
        """Return whether layers are equalized before they are rounded, see :mod:`pythia_quant.model.equalize`."""
        return False

    @abstractmethod
    def write(self, job: Job[S]) -> Written:
        """Write weights and ``config.json`` into the job's folder.

        Raises:
            QuantizationError: the weights cannot be quantized with these settings.
            SourceError: a source tensor is missing or damaged.
        """

    @abstractmethod
    def open_weights(self, folder: Path) -> WeightReader:
        """Open an artifact's weights, dequantized, under the checkpoint's names.

        Raises:
            ArtifactError: a file is missing or damaged, or :meth:`write` would not write it.
            SourceError: ``config.json`` is not that of a GPT-NeoX.
        """

    def open_codes(self, folder: Path) -> CodesReader:
        """Open an artifact whose integers another format can store. Only GPTQ's artifacts are of this kind.

        Raises:
            ArtifactError: a file is missing or damaged, as in :meth:`open_weights`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no integers for other formats")

    def costs(self, settings: S, architecture: Architecture, calibration_tokens: int) -> Costs:  # noqa: ARG002
        """Estimate what a conversion takes while it runs; 0 stands for little."""
        return Costs(0, 0)

    def memory_bytes(self, settings: S, architecture: Architecture, disk_bytes: int) -> int:  # noqa: ARG002
        """Return the bytes that the weights take in the runtime's memory; `disk_bytes` is their size on disk."""
        return disk_bytes
