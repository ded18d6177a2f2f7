"""The entry of compressed-tensors in the table of formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pythia_quant.formats.format import Format
from pythia_quant.model.architecture import Architecture
from pythia_quant.recipe.compressed_variant import CompressedSettings

if TYPE_CHECKING:
    from pythia_quant.formats.compressed_tensors.reader import CompressedWeights
    from pythia_quant.formats.job import Job, Written
    from pythia_quant.runtimes.protocol import Layered, Runtime

# ruff: noqa: PLC0415 - a recipe is read without torch, so modules that import it are imported when they are needed


class CompressedFormat(Format[CompressedSettings]):
    """The layout `pack-quantized` of compressed-tensors, which transformers and vLLM read."""

    on_gpu = False
    in_layers = True

    def equalizes(self, settings: CompressedSettings) -> bool:  # noqa: ARG002
        return True

    def write(self, job: Job[CompressedSettings]) -> Written:
        from pythia_quant.formats.compressed_tensors.writer import write

        return write(job)

    def open_weights(self, folder: Path) -> CompressedWeights:
        from pythia_quant.formats.compressed_tensors.reader import read

        return read(folder)

    def streamed_bytes(self, folder: Path) -> int:
        from pythia_quant.formats.tensor_files import streamed_bytes

        return streamed_bytes(folder)

    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        from pythia_quant.formats.compressed_tensors.runtime import open_runtime

        return lambda folder, threads, _: open_runtime(folder, threads)

    def open_layers(self, folder: Path, threads: int) -> Layered:
        from pythia_quant.formats.compressed_tensors.runtime import open_layers

        return open_layers(folder, threads)

    def memory_bytes(self, settings: CompressedSettings, architecture: Architecture, disk_bytes: int) -> int:
        return 4 * architecture.parameters if settings.bits == 8 else disk_bytes  # 8 bits are dequantized to fp32
