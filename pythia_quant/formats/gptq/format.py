"""The entry of GPTQ in the table of formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pythia_quant.formats.format import Costs, Format
from pythia_quant.model.architecture import Architecture
from pythia_quant.recipe.variants import GptqSettings

if TYPE_CHECKING:
    from pythia_quant.formats.gptq.reader import GptqWeights
    from pythia_quant.formats.job import Job, Written
    from pythia_quant.runtimes.protocol import Layered, Runtime

# ruff: noqa: PLC0415 - a recipe is read without torch, so modules that import it are imported when they are needed


class GptqFormat(Format[GptqSettings]):
    """The GPTQ format: version 1 of auto-gptq's layout, which transformers, vLLM, SGLang and gptqmodel read."""

    in_layers = True

    def equalizes(self, settings: GptqSettings) -> bool:  # noqa: ARG002
        return True

    def write(self, job: Job[GptqSettings]) -> Written:
        from pythia_quant.formats.gptq.writer import write

        return write(job)

    def open_weights(self, folder: Path) -> GptqWeights:
        from pythia_quant.formats.gptq.reader import read

        return read(folder)

    def open_codes(self, folder: Path) -> GptqWeights:
        return self.open_weights(folder)

    def streamed_bytes(self, folder: Path) -> int:
        from pythia_quant.formats.tensor_files import streamed_bytes

        return streamed_bytes(folder)

    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        from pythia_quant.formats.gptq.runtime import open_runtime

        return open_runtime

    def open_layers(self, folder: Path, threads: int) -> Layered:
        from pythia_quant.formats.gptq.runtime import open_layers

        return open_layers(folder, threads)

    def costs(self, settings: GptqSettings, architecture: Architecture, calibration_tokens: int) -> Costs:
        from pythia_quant.formats.solving.solve import costs

        return costs(architecture, calibration_tokens, fisher=settings.fisher)

    def memory_bytes(self, settings: GptqSettings, architecture: Architecture, disk_bytes: int) -> int:
        return (
            4 * architecture.parameters if settings.bits == 8 else disk_bytes
        )  # the kernel takes no 8 bits, so they are dequantized to fp32
