"""The ONNX format, for the table of formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pythia_quant.formats.format import Format
from pythia_quant.recipe.onnx_variant import OnnxSettings

if TYPE_CHECKING:
    from pythia_quant.formats.job import Job, Written
    from pythia_quant.model.weights import WeightReader
    from pythia_quant.runtimes.protocol import Layered, Runtime

# ruff: noqa: PLC0415 - a recipe is read without torch and onnx: what needs them is imported when it is needed


class OnnxFormat(Format[OnnxSettings]):
    """A graph of ONNX Runtime's operators, with its weights in a file beside it."""

    needs = ("onnx", "onnxruntime")
    extra = "onnx"
    on_gpu = False
    in_layers = True

    def equalizes(self, settings: OnnxSettings) -> bool:  # noqa: ARG002
        return True

    def write(self, job: Job[OnnxSettings]) -> Written:
        from pythia_quant.formats.onnx.writer import write

        return write(job)

    def open_weights(self, folder: Path) -> WeightReader:
        from pythia_quant.formats.onnx.reader import read

        return read(folder)

    def streamed_bytes(self, folder: Path) -> int:
        from pythia_quant.formats.onnx.reader import streamed_bytes

        return streamed_bytes(folder)

    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        from pythia_quant.formats.onnx.runtime import open_runtime

        return lambda folder, threads, _: open_runtime(folder, threads)

    def open_layers(self, folder: Path, threads: int) -> Layered:
        from pythia_quant.formats.onnx.runtime import open_layers

        return open_layers(folder, threads)
