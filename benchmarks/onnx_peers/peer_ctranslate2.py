"""Driver of CTranslate2: int8 per row, by its own converter and generator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import protocol


def convert(source: Path, out: Path) -> None:
    """Convert with every matrix in int8, embeddings and head included."""
    command = Path(sys.prefix) / "bin" / "ct2-transformers-converter"
    model = ["--model", str(source), "--output_dir", str(out), "--force"]  # --force: the folder exists
    subprocess.run([command, *model, "--quantization", "int8"], check=True)


def prepare() -> protocol.Open:
    """Import the library."""
    import_module("ctranslate2")
    return Ctranslate2Model


class Ctranslate2Model:
    """A generator, which takes tokens as text and streams what it generates."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._library = import_module("ctranslate2")
        self._generator = self._library.Generator(str(folder), device="cpu", inter_threads=1, intra_threads=threads)
        self._vocabulary: list[str] = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        self._stream: Iterator[int] = iter(())
        self.notes = f"ctranslate2 {self._library.__version__}, {self._generator.compute_type}, {threads} threads"

    def prefill(self, ids: list[int], capacity: int) -> int:
        """Generate one token after the prompt, or begin to generate as many as there is capacity for."""
        tokens = [self._vocabulary[token] for token in ids]
        count = capacity - len(ids) + 1
        if count == 1:
            options = {"max_length": 1, "min_length": 1, "sampling_topk": 1, "include_prompt_in_result": False}
            result = self._generator.generate_batch([tokens], **options)[0]
            return int(result.sequences_ids[0][0])
        steps = self._generator.generate_tokens(tokens, max_length=count, min_length=count, sampling_topk=1)
        self._stream = (step.token_id for step in steps)
        return next(self._stream)

    def step(self, token: int) -> int:
        """Return the next token of the stream; it feeds its own last one."""
        del token
        return next(self._stream)

    def logits(self, ids: list[int]) -> Any:
        tokens = [self._vocabulary[token] for token in ids]
        result = self._generator.forward_batch([tokens], return_log_probs=False)
        return np.array(result.to(self._library.DataType.float32))[0]


if __name__ == "__main__":
    protocol.main(convert, prepare)
