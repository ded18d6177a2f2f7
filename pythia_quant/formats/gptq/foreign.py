"""GPTQ checkpoints of other makers, such as auto-gptq, gptqmodel and optimum: their kind in the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pythia_quant.formats.foreign import Finding, ForeignKind, check_shape
from pythia_quant.model.architecture import HEAD, Architecture

if TYPE_CHECKING:
    from pythia_quant.formats.gptq.foreign_reader import ForeignGptq
    from pythia_quant.runtimes.protocol import Layered, Runtime

# ruff: noqa: PLC0415 - the table of kinds is read without torch: what needs it is imported when it is needed


class ForeignGptqKind(ForeignKind):
    """Linear layers in the layout of auto-gptq, version 1, or in gptqmodel's second; our own runtime runs it."""

    name: ClassVar[str] = "gptq"
    like: ClassVar[str] = "gptq"
    in_layers = True

    def recognizes(self, path: Path) -> bool:
        from pythia_quant.formats.foreign_checkpoint import quantization_of, read_config_fields

        fields = read_config_fields(path) if path.is_dir() else None
        return fields is not None and quantization_of(path, fields).get("quant_method") == "gptq"

    def inspect(self, path: Path, source: Architecture) -> Finding:
        from pythia_quant.formats.gptq.foreign_reader import ForeignGptq
        from pythia_quant.formats.gptq.runtime import runs_in_kernel

        weights = ForeignGptq(path)
        check_shape(weights.architecture, source, str(path / "config.json"))
        size = sum(file.stat().st_size for file in weights.tensors.files)
        dequantized = not runs_in_kernel(weights)
        return Finding(
            stored=_described(weights),
            quantized=any(map(weights.is_quantized, source.tensor_shapes())),
            files=[file.relative_to(path).as_posix() for file in weights.tensors.files],
            memory_bytes=4 * source.parameters if dequantized else size,
        )

    def open_weights(self, folder: Path) -> ForeignGptq:
        from pythia_quant.formats.gptq.foreign_reader import ForeignGptq

        return ForeignGptq(folder)

    def streamed_bytes(self, folder: Path) -> int:
        return self.open_weights(folder).tensors.streamed_bytes()

    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        from pythia_quant.formats.gptq.runtime import open_foreign

        return lambda folder, threads, device: open_foreign(self.open_weights(folder), folder, threads, device)

    def open_layers(self, folder: Path, threads: int) -> Layered:
        from pythia_quant.formats.gptq.runtime import open_foreign_layers

        return open_foreign_layers(self.open_weights(folder), folder, threads)


def _described(weights: ForeignGptq) -> str:
    layout = weights.layout
    groups = "rows" if layout.group_size == -1 else f"groups of {layout.group_size}"
    parts = [f"GPTQ, {layout.bits} bits in {groups}"]
    parts += ["ordered by activations"] if layout.dynamic else []
    parts += [] if layout.symmetric else ["with zero points"]
    parts += ["head too"] if weights.is_quantized(HEAD) else []
    parts += [] if layout.zero_offset else ["layout gptq_v2"]
    return ", ".join(parts)
