"""What a measuring process opens: the source in some dtype, or an artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from pythia_quant.formats import Format, format_of, load, parse_settings
from pythia_quant.recipe import SOURCE_ROWS
from pythia_quant.runtimes import Runtime
from pythia_quant.runtimes.layered import Layered
from pythia_quant.weights import WeightReader

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
    settings: dict[str, Any] | None = None
    device: Literal["cpu", "cuda"] = "cpu"

    @field_validator("device")
    @classmethod
    def _where_it_runs(cls, device: str, info: ValidationInfo) -> str:
        settings = info.data.get("settings")
        return "cpu" if settings and settings.get("format") == "onnx" else device

    def import_runtime(self) -> Callable[..., Runtime]:
        """Import what the runtime needs and return the function that opens it."""
        opener: Callable[..., Runtime] = load(
            self.format().run if self.settings else "pythia_quant.runtimes.hf:open_model"
        )
        return opener

    def open_runtime(self, threads: int) -> Runtime:
        """Load the model into the runtime that users run it with.

        Raises:
            ArtifactError: it cannot be loaded.
            BenchmarkError: it cannot run on the device.
        """
        torch.set_num_threads(threads)
        opener = self.import_runtime()
        elsewhere = {} if self.device == "cpu" else {"device": self.device}  # not every runtime knows another
        return opener(self.folder, threads if self.dtype is None else getattr(torch, self.dtype), **elsewhere)

    def layers_runtime(self) -> str:
        """Return the name of what runs the model layer by layer; empty where nothing does."""
        return self.format().run_layers if self.settings else "pythia_quant.runtimes.torch_layers:open_source"

    def open_layers(self, threads: int) -> Layered:
        """Open the model to run it layer by layer: only one layer's weights are then in memory.

        Raises:
            ArtifactError: it cannot be loaded.
        """
        opener: Callable[..., Layered] = load(self.layers_runtime())
        return opener(self.folder, threads if self.dtype is None else getattr(torch, self.dtype))

    def open_reader(self) -> WeightReader | None:
        """Open an artifact's dequantized weights; None for a source, whose weights are the reference's."""
        if self.settings is None:
            return None
        reader: WeightReader = load(self.format().read)(self.folder)
        return reader

    def format(self) -> Format:
        """Return the entry of an artifact's format."""
        return format_of(parse_settings(self.settings))
