"""The model that a row measures: the source in some dtype, or an artifact; and how a measuring process opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from pythia_quant.formats.format import Opener
from pythia_quant.formats.table import FOREIGN, FORMATS, foreign_kind, format_of
from pythia_quant.model.weights import WeightReader
from pythia_quant.recipe.recipe import SOURCE_ROWS
from pythia_quant.recipe.variants import AnyVariant
from pythia_quant.runtimes.protocol import Layered, Runtime

# ruff: noqa: PLC0415 - a process that measures a runtime imports no other runtime

SOURCE_DTYPES = dict(zip(("float16", "bfloat16", "float32"), SOURCE_ROWS, strict=True))
"""The dtypes that the source is measured in, and the names of their rows; the first row is the baseline."""


class Subject(BaseModel):
    """The model that a row measures: a folder, and how to run it. It is JSON data, to be sent to another process.

    Attributes:
        name: the name of the row.
        folder: the folder of the source or of the artifact; what others made may be a single file.
        dtype: for a source, the dtype in which transformers runs it; None for an artifact.
        settings: for an artifact of ours, the settings of its variant; else None.
        foreign: for what others made, the name of its kind; else None.
        device: ``cpu`` or ``cuda``. An ONNX artifact is always run on the CPU, and then this is ``cpu``.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    folder: Path
    dtype: str | None = None
    settings: AnyVariant | None = None
    foreign: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"

    @field_validator("device")
    @classmethod
    def _device_of_format(cls, device: str, info: ValidationInfo) -> str:
        settings, foreign = info.data.get("settings"), info.data.get("foreign")
        opener: Opener | None = FOREIGN[foreign] if foreign else FORMATS[settings.format] if settings else None
        return device if opener is None or opener.on_gpu else "cpu"

    @property
    def opener(self) -> Opener | None:
        """What reads and runs the artifact; None for a source.

        Raises:
            ArtifactError: a package that it needs is not installed.
        """
        if self.foreign is not None:
            return foreign_kind(self.foreign)
        return None if self.settings is None else format_of(self.settings)

    def import_runtime(self) -> None:
        """Import all modules that :meth:`open_runtime` needs, so that it measures no import."""
        if opener := self.opener:
            opener.import_runtime()
        else:
            from pythia_quant.runtimes import transformers  # noqa: F401

    def open_runtime(self, threads: int) -> Runtime:
        """Load the model into the runtime that users run it with.

        Args:
            threads: the number of threads of the runtime.

        Raises:
            ArtifactError: the model cannot be loaded.
            BenchmarkError: the model cannot run on the device.
        """
        torch.set_num_threads(threads)
        if opener := self.opener:
            return opener.open_runtime(self.folder, threads, self.device)
        from pythia_quant.runtimes.transformers import open_model

        return open_model(self.folder, self._torch_dtype(), self.device)

    @property
    def in_layers(self) -> bool:
        """Whether :meth:`open_layers` can run the model."""
        opener = self.opener
        return opener is None or opener.in_layers

    def open_layers(self, threads: int) -> Layered:
        """Open the model to run it layer by layer, with the weights of only one layer in memory at a time.

        Args:
            threads: the number of threads of the runtime.

        Raises:
            ArtifactError: the artifact cannot be loaded.
            SourceError: the source is missing or damaged.
        """
        if opener := self.opener:
            return opener.open_layers(self.folder, threads)
        from pythia_quant.runtimes.transformers_layers import open_source_layers

        return open_source_layers(self.folder, self._torch_dtype())

    def open_weights(self) -> WeightReader | None:
        """Open an artifact's dequantized weights; None for a source, whose weights the reference has, too.

        Raises:
            ArtifactError: a file of the artifact is missing or damaged.
        """
        opener = self.opener
        return None if opener is None else opener.open_weights(self.folder)

    def _torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype or "")
        return dtype
