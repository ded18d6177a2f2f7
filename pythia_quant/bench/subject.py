"""What a measuring process opens: the source in some dtype, or an artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter

from pythia_quant.formats import AnyVariant, format_of, load
from pythia_quant.runtimes import Runtime
from pythia_quant.weights import WeightReader

SOURCE_DTYPES = {"float16": "torch-fp16", "bfloat16": "torch-bf16", "float32": "torch-fp32"}
"""The dtypes the source is measured in, and the names of their rows; the first is the baseline."""


class Subject(BaseModel):
    """A folder and how to run it; JSON data, so that it can be sent to another process.

    Attributes:
        name: the row's.
        folder: the source's or the artifact's.
        dtype: for a source, the dtype transformers runs it in.
        settings: for an artifact, its variant's settings.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    folder: Path
    dtype: str | None = None
    settings: dict[str, Any] | None = None

    def import_runtime(self) -> Callable[..., Runtime]:
        """Import what the runtime needs and return the function that opens it."""
        opener: Callable[..., Runtime] = load(
            self._format().run if self.settings else "pythia_quant.runtimes.hf:open_model"
        )
        return opener

    def open_runtime(self, threads: int) -> Runtime:
        """Load the model into the runtime that users run it with."""
        torch.set_num_threads(threads)
        opener = self.import_runtime()
        return opener(self.folder, threads if self.dtype is None else getattr(torch, self.dtype))

    def open_reader(self) -> WeightReader | None:
        """Open an artifact's dequantized weights; None for a source, whose weights are the reference's."""
        if self.settings is None:
            return None
        reader: WeightReader = load(self._format().read)(self.folder)
        return reader

    def _format(self) -> Any:
        return format_of(TypeAdapter(AnyVariant).validate_python(self.settings))
