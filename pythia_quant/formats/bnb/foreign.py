"""bitsandbytes checkpoints of other makers, as ``save_pretrained`` leaves them: their kind in the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pythia_quant.formats.foreign import Finding, ForeignKind, check_shape
from pythia_quant.model.architecture import Architecture

if TYPE_CHECKING:
    from pythia_quant.formats.bnb.foreign_reader import ForeignBnb
    from pythia_quant.runtimes.protocol import Runtime

# ruff: noqa: PLC0415 - the table of kinds is read without torch and bitsandbytes: what needs them is imported later


class ForeignBnbKind(ForeignKind):
    """Linear layers in 4 bits (nf4, fp4) or 8 bits (LLM.int8()), which transformers and bitsandbytes run."""

    name: ClassVar[str] = "bnb"
    like: ClassVar[str] = "bnb"
    needs = ("bitsandbytes", "accelerate")
    extra = "bnb"

    def recognizes(self, path: Path) -> bool:
        from pythia_quant.formats.foreign_checkpoint import quantization_of, read_config_fields

        fields = read_config_fields(path) if path.is_dir() else None
        quantization = {} if fields is None else quantization_of(path, fields)
        old = "quant_method" not in quantization and bool({"load_in_4bit", "load_in_8bit"} & quantization.keys())
        return old or quantization.get("quant_method") == "bitsandbytes"

    def inspect(self, path: Path, source: Architecture) -> Finding:
        from pythia_quant.formats.bnb.foreign_reader import ForeignBnb

        weights = ForeignBnb(path)
        check_shape(weights.architecture, source, str(path / "config.json"))
        files = weights.tensors.files
        return Finding(
            stored=described(weights),
            quantized=weights.bits < 16,
            files=[file.relative_to(path).as_posix() for file in files],
            memory_bytes=sum(file.stat().st_size for file in files),
        )

    def open_weights(self, folder: Path) -> ForeignBnb:
        from pythia_quant.formats.bnb.foreign_reader import ForeignBnb

        return ForeignBnb(folder)

    def streamed_bytes(self, folder: Path) -> int:
        return self.open_weights(folder).tensors.streamed_bytes()

    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        from pythia_quant.formats.bnb.runtime import open_foreign

        return open_foreign


def described(weights: ForeignBnb) -> str:
    """Return how the weights of a checkpoint are stored, for people."""
    if not weights.blocks:
        return f"bitsandbytes, {weights.bits} bits"
    one = next(iter(weights.blocks.values()))
    nested = ", scales quantized" if one.nested_size else ""
    return f"bitsandbytes {one.quant_type} in blocks of {one.size}{nested}"
