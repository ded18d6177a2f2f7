"""What a measuring process opens: the source in some dtype, or an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from pythia_quant.formats.table import FORMATS, format_of
from pythia_quant.model.weights import WeightReader
from pythia_quant.recipe.recipe import SOURCE_ROWS
from pythia_quant.recipe.variants import AnyVariant
from pythia_quant.runtimes.protocol import Layered, Runtime

# ruff: noqa: PLC0415 - a process that measures a runtime imports no other

SOURCE_DTYPES = dict(zip(("float16", "bfloat16", "float32"), SOURCE_ROWS, strict=True))
"""The dtypes the source is measured in, and the names of their rows; the first is the baseline."""


class Subject(BaseModel):
    """A folder and how to run it; JSON data, so that it can be sent to another process.

    Attributes:
        name: the row's.
        folder: the source's or the artifact's.
        dtype: for a source, the dtype transformers runs it in.
        settings: for an artifact, its variant's settings.
        device: ``cpu`` or ``cuda``; an ONNX artifact stays on the CPU whatever is given.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    folder: Path
    dtype: str | None = None
    settings: AnyVariant | None = None
    device: Literal["cpu", "cuda"] = "cpu"

    @field_validator("device")
    @classmethod
    def _where_it_runs(cls, device: str, info: ValidationInfo) -> str:
        settings = info.data.get("settings")
        return device if settings is None or FORMATS[settings.format].on_gpu else "cpu"

    def import_runtime(self) -> None:
        """Import all that :meth:`open_runtime` needs."""
        if self.settings is None:
            from pythia_quant.runtimes import transformers  # noqa: F401
        else:
            format_of(self.settings).import_runtime()

    def open_runtime(self, threads: int) -> Runtime:
        """Load the model into the runtime that users run it with.

        Raises:
            ArtifactError: it cannot be loaded.
            BenchmarkError: it cannot run on the device.
        """
        torch.set_num_threads(threads)
        if self.settings is not None:
            return format_of(self.settings).open_runtime(self.folder, threads, self.device)
        from pythia_quant.runtimes.transformers import open_model

        return open_model(self.folder, self._torch_dtype(), self.device)

    @property
    def in_layers(self) -> bool:
        """Whether :meth:`open_layers` can run the model."""
        return self.settings is None or format_of(self.settings).in_layers

    def open_layers(self, threads: int) -> Layered:
        """Open the model to run it layer by layer: only one layer's weights are then in memory.

        Raises:
            ArtifactError: it cannot be loaded.
        """
        if self.settings is not None:
            return format_of(self.settings).open_layers(self.folder, threads)
        from pythia_quant.runtimes.transformers_layers import open_source

        return open_source(self.folder, self._torch_dtype())

    def open_weights(self) -> WeightReader | None:
        """Open an artifact's dequantized weights; None for a source, whose weights are the reference's."""
        return None if self.settings is None else format_of(self.settings).open_weights(self.folder)

    def _torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype or "")
        return dtype
