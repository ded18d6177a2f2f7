"""What a measuring process opens: the source in some dtype, or an artifact."""

from __future__ import annotations

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

    def open_runtime(self, threads: int) -> Runtime:
        """Load the model into the runtime that users run it with."""
        torch.set_num_threads(threads)
        if self.settings is None:
            assert self.dtype is not None  # noqa: S101 - a source has one
            opener = load("pythia_quant.runtimes.hf:open_model")
            runtime: Runtime = opener(self.folder, getattr(torch, self.dtype))
        else:
            runtime = load(self._format().run)(self.folder, threads)
        return runtime

    def open_reader(self) -> WeightReader | None:
        """Open an artifact's dequantized weights; None for a source, whose weights are the reference's."""
        if self.settings is None:
            return None
        reader: WeightReader = load(self._format().read)(self.folder)
        return reader

    def _format(self) -> Any:
        return format_of(TypeAdapter(AnyVariant).validate_python(self.settings))
