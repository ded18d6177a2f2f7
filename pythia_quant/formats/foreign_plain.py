"""Checkpoints that others saved without quantizing them: their drift is what their dtype costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.foreign import Finding, ForeignKind, check_shape
from pythia_quant.model.architecture import EMBEDDING, Architecture

if TYPE_CHECKING:
    import torch

    from pythia_quant.model.weights import WeightFiles
    from pythia_quant.runtimes.protocol import Layered, Runtime

# ruff: noqa: PLC0415 - the table of kinds is read without torch: what needs it is imported when it is needed

_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


class PlainKind(ForeignKind):
    """A checkpoint in fp16, bf16 or fp32, which transformers runs in that dtype."""

    name: ClassVar[str] = "unquantized"
    like: ClassVar[str] = "torch-fp16"
    in_layers = True

    def recognizes(self, path: Path) -> bool:
        from pythia_quant.formats.foreign_checkpoint import quantization_of, read_config_fields, weight_files

        fields = read_config_fields(path) if path.is_dir() else None
        if fields is None or quantization_of(path, fields):
            return False
        try:
            return bool(weight_files(path))
        except ArtifactError:
            return False

    def inspect(self, path: Path, source: Architecture) -> Finding:
        from pythia_quant.formats.foreign_checkpoint import read_foreign_config, weight_files

        theirs = read_foreign_config(path)
        check_shape(theirs.architecture, source, str(path / "config.json"))
        self.open_weights(path)
        files = weight_files(path)
        return Finding(
            stored=f"unquantized, {_dtype(path)}",
            quantized=False,
            files=[file.relative_to(path).as_posix() for file in files],
            memory_bytes=sum(file.stat().st_size for file in files),
        )

    def open_weights(self, folder: Path) -> WeightFiles:
        from pythia_quant.model.source import open_weights

        return open_weights(folder)

    def streamed_bytes(self, folder: Path) -> int:
        from pythia_quant.formats.foreign_checkpoint import ForeignTensors

        return ForeignTensors(folder).streamed_bytes()

    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        from pythia_quant.runtimes.transformers import open_model

        return lambda folder, _, device: open_model(folder, _torch_dtype(folder), device)

    def open_layers(self, folder: Path, threads: int) -> Layered:  # noqa: ARG002 - they are those of the process
        from pythia_quant.runtimes.transformers_layers import open_source_layers

        return open_source_layers(folder, _torch_dtype(folder))


def _dtype(folder: Path) -> str:
    """Return the name of the dtype that the embeddings are stored in, for torch."""
    from pythia_quant.formats.foreign_checkpoint import ForeignTensors

    tensors = ForeignTensors(folder)
    return _DTYPES.get(tensors.stored[EMBEDDING].dtype, "float32") if EMBEDDING in tensors else "float16"


def _torch_dtype(folder: Path) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, _dtype(folder))
    return dtype
