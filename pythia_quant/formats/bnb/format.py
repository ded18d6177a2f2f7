"""The bitsandbytes format, for the table of formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pythia_quant.formats.format import Format
from pythia_quant.recipe.variants import BnbSettings

if TYPE_CHECKING:
    from pythia_quant.formats.bnb.reader import BnbWeights
    from pythia_quant.formats.job import Job, Written
    from pythia_quant.runtimes.protocol import Runtime

# ruff: noqa: PLC0415 - a recipe is read without torch and bitsandbytes: what needs them is imported when it is needed


class BnbFormat(Format[BnbSettings]):
    """4-bit blocks that bitsandbytes quantizes, and transformers loads."""

    needs = ("bitsandbytes", "accelerate")
    extra = "bnb"
    held = 840_000_000
    held_of_weights = 2.0

    def equalizes(self, settings: BnbSettings) -> bool:
        return settings.equalize

    def write(self, job: Job[BnbSettings]) -> Written:
        from pythia_quant.formats.bnb.writer import write

        return write(job)

    def open_weights(self, folder: Path) -> BnbWeights:
        from pythia_quant.formats.bnb.reader import read

        return read(folder)

    def streamed_bytes(self, folder: Path) -> int:
        from pythia_quant.formats.tensor_files import streamed_bytes

        return streamed_bytes(folder)

    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        from pythia_quant.formats.bnb.runtime import open_bnb

        return open_bnb
