"""GPTQ checkpoints of other makers, such as auto-gptq, gptqmodel and optimum: their kind in the table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pythia_quant.formats.foreign import Finding, ForeignKind, check_shape
from pythia_quant.model.architecture import Architecture

if TYPE_CHECKING:
    from pythia_quant.formats.gptq.foreign_reader import ForeignGptq
    from pythia_quant.formats.gptq.integers import ForeignIntegers
    from pythia_quant.runtimes.protocol import Layered, Runtime

# ruff: noqa: PLC0415 - the table of kinds is read without torch: what needs it is imported when it is needed


class IntegersKind(ForeignKind):
    """Linear layers as integers in groups, which our own runtime of GPTQ runs. `name` is the ``quant_method``."""

    in_layers = True

    @abstractmethod
    def open_weights(self, folder: Path) -> ForeignIntegers: ...

    def recognizes(self, path: Path) -> bool:
        from pythia_quant.formats.foreign_checkpoint import quantization_of, read_config_fields

        fields = read_config_fields(path) if path.is_dir() else None
        return fields is not None and quantization_of(path, fields).get("quant_method") == self.name

    def inspect(self, path: Path, source: Architecture) -> Finding:
        from pythia_quant.formats.gptq.runtime import runs_in_kernel

        weights = self.open_weights(path)
        check_shape(weights.architecture, source, str(path / "config.json"))
        size = sum(file.stat().st_size for file in weights.tensors.files)
        return Finding(
            stored=weights.describe(),
            quantized=any(map(weights.is_quantized, source.tensor_shapes())),
            files=[file.relative_to(path).as_posix() for file in weights.tensors.files],
            memory_bytes=size if runs_in_kernel(weights) else 4 * source.parameters,
        )

    def streamed_bytes(self, folder: Path) -> int:
        return self.open_weights(folder).tensors.streamed_bytes()

    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        from pythia_quant.formats.gptq.runtime import open_foreign

        return lambda folder, threads, device: open_foreign(self.open_weights(folder), folder, threads, device)

    def open_layers(self, folder: Path, threads: int) -> Layered:
        from pythia_quant.formats.gptq.runtime import open_foreign_layers

        return open_foreign_layers(self.open_weights(folder), folder, threads)


class ForeignGptqKind(IntegersKind):
    """The layout of auto-gptq, version 1, or gptqmodel's second."""

    name: ClassVar[str] = "gptq"
    like: ClassVar[str] = "gptq"

    def open_weights(self, folder: Path) -> ForeignGptq:
        from pythia_quant.formats.gptq.foreign_reader import ForeignGptq

        return ForeignGptq(folder)
