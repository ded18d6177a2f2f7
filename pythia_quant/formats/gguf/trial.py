"""Load a GGUF file in a fresh process first: where a check of its own fails, llama.cpp ends the process it is in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pythia_quant.core import process
from pythia_quant.core.errors import ArtifactError, BenchmarkError
from pythia_quant.formats.gguf.loaded import Cells, Model

_TOKENS = 2  # more than one runs the kernels for prompts


def try_in_child(file: Path, threads: int = 1) -> None:
    """Load a file in llama.cpp in another process, with a check of all its weights, and compute two tokens.

    Raises:
        ArtifactError: llama.cpp cannot be loaded, refuses the file, or ends its process.
    """
    try:
        process.call(load_and_run, {"file": str(file), "threads": threads}, threads)
    except BenchmarkError as error:
        what = error.what.removeprefix(f"{process.name_of(load_and_run)} ")
        raise ArtifactError(
            f"llama.cpp cannot run it; its process {what}" if what != error.what else what,
            where=str(file),
            hint="the file is damaged: convert again, or download it again",
        ) from error


def load_and_run(file: str, threads: int) -> None:
    """Load a file, and compute two tokens, as :func:`try_in_child` does in another process.

    Raises:
        ArtifactError: llama.cpp cannot be loaded, or refuses the file.
        BenchmarkError: llama.cpp fails.
    """
    model = Model(Path(file), check_data=True)
    tokens = min(_TOKENS, model.context)
    cells = Cells(model, tokens, threads, all_logits=False)
    cells.feed(np.zeros(tokens, np.int32), np.empty((1, model.vocabulary), np.float32))
