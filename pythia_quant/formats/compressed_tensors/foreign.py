"""compressed-tensors checkpoints of other makers, such as llm-compressor: their kind in the table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pythia_quant.formats.gptq.foreign import IntegersKind

if TYPE_CHECKING:
    from pythia_quant.formats.compressed_tensors.foreign_reader import ForeignCompressed


class ForeignCompressedKind(IntegersKind):
    """The layout ``pack-quantized``."""

    name: ClassVar[str] = "compressed-tensors"
    like: ClassVar[str] = "compressed-tensors"

    def open_weights(self, folder: Path) -> ForeignCompressed:
        # Kinds are listed without torch: what needs it is imported when it is needed.
        from pythia_quant.formats.compressed_tensors.foreign_reader import ForeignCompressed  # noqa: PLC0415

        return ForeignCompressed(folder)
