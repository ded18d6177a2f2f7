"""The entry of GGUF in the table of formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pythia_quant.formats.format import Costs, Format
from pythia_quant.model.architecture import Architecture
from pythia_quant.recipe.gguf_variant import GgufSettings

if TYPE_CHECKING:
    from pythia_quant.formats.job import Job, Written
    from pythia_quant.model.weights import WeightReader
    from pythia_quant.runtimes.protocol import Runtime

# ruff: noqa: PLC0415 - a recipe is read without torch and gguf: what needs them is imported when it is needed


class GgufFormat(Format[GgufSettings]):
    """One file with weights and tokenizer, which llama.cpp, Ollama and LM Studio run."""

    needs = ("gguf", "xllamacpp")
    extra = "gguf"
    on_gpu = False

    def equalizes(self, settings: GgufSettings) -> bool:
        return settings.quantizes_layers()

    def write(self, job: Job[GgufSettings]) -> Written:
        from pythia_quant.formats.gguf.writer import write

        return write(job)

    def open_weights(self, folder: Path) -> WeightReader:
        from pythia_quant.formats.gguf.reader import read

        return read(folder)

    def streamed_bytes(self, folder: Path) -> int:
        from pythia_quant.formats.gguf.reader import streamed_bytes

        return streamed_bytes(folder)

    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        from pythia_quant.formats.gguf.llama_cpp import library
        from pythia_quant.formats.gguf.runtime import open_runtime

        library()
        return lambda folder, threads, _: open_runtime(folder, threads)

    def try_elsewhere(self, folder: Path) -> None:
        from pythia_quant.formats.gguf.names import find_file
        from pythia_quant.formats.gguf.trial import try_in_child

        try_in_child(find_file(folder))

    def costs(self, settings: GgufSettings, architecture: Architecture, calibration_tokens: int) -> Costs:
        from pythia_quant.formats.solving.solve import costs

        if not settings.calibrates:
            return Costs(0, 0)
        return costs(architecture, calibration_tokens, fisher=settings.fisher)
