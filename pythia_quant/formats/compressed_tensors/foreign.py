"""compressed-tensors checkpoints of other makers, such as llm-compressor: their kind in the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pythia_quant.formats.foreign import Finding, ForeignKind, check_shape
from pythia_quant.model.architecture import HEAD, Architecture

if TYPE_CHECKING:
    from pythia_quant.formats.compressed_tensors.foreign_reader import ForeignCompressed
    from pythia_quant.runtimes.protocol import Layered, Runtime

# ruff: noqa: PLC0415 - the table of kinds is read without torch: what needs it is imported when it is needed


class ForeignCompressedKind(ForeignKind):
    """Linear layers in the layout ``pack-quantized``; our own runtime runs it."""

    name: ClassVar[str] = "compressed-tensors"
    like: ClassVar[str] = "compressed-tensors"
    in_layers = True

    def recognizes(self, path: Path) -> bool:
        from pythia_quant.formats.foreign_checkpoint import quantization_of, read_config_fields

        fields = read_config_fields(path) if path.is_dir() else None
        return fields is not None and quantization_of(path, fields).get("quant_method") == "compressed-tensors"

    def inspect(self, path: Path, source: Architecture) -> Finding:
        from pythia_quant.formats.gptq.runtime import runs_in_kernel

        weights = self.open_weights(path)
        check_shape(weights.architecture, source, str(path / "config.json"))
        size = sum(file.stat().st_size for file in weights.tensors.files)
        return Finding(
            stored=_described(weights),
            quantized=bool(weights.packed),
            files=[file.relative_to(path).as_posix() for file in weights.tensors.files],
            memory_bytes=size if runs_in_kernel(weights) else 4 * source.parameters,
        )

    def open_weights(self, folder: Path) -> ForeignCompressed:
        from pythia_quant.formats.compressed_tensors.foreign_reader import ForeignCompressed

        return ForeignCompressed(folder)

    def streamed_bytes(self, folder: Path) -> int:
        return self.open_weights(folder).tensors.streamed_bytes()

    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        from pythia_quant.formats.gptq.runtime import open_foreign

        return lambda folder, threads, device: open_foreign(self.open_weights(folder), folder, threads, device)

    def open_layers(self, folder: Path, threads: int) -> Layered:
        from pythia_quant.formats.gptq.runtime import open_foreign_layers

        return open_foreign_layers(self.open_weights(folder), folder, threads)


def _described(weights: ForeignCompressed) -> str:
    grids = {(one.bits, one.group_size, one.symmetric) for one in weights.packed.values()}
    parts = ["compressed-tensors"]
    for bits, size, symmetric in sorted(grids, key=repr):
        groups = f"groups of {size}" if size else "rows"
        parts.append(f"{bits} bits in {groups}{'' if symmetric else ' with zero points'}")
    parts += ["ordered by activations"] if any(one.ordered for one in weights.packed.values()) else []
    parts += ["head too"] if weights.is_quantized(HEAD) else []
    return ", ".join(parts)
