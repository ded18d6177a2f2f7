"""Driver of llama.cpp: GGUF Q8_0 by its own converter, run through the functions of its C library."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import protocol

SOURCE = Path(sys.prefix) / "source"
"""Where environments.py puts the source of the library, because only the source has the converter."""


def convert(source: Path, out: Path) -> None:
    """Write model.gguf with every matrix in Q8_0, embeddings and head included."""
    script = SOURCE / "vendor" / "llama.cpp" / "convert_hf_to_gguf.py"
    model = out / "model.gguf"
    subprocess.run([sys.executable, script, source, "--outtype", "q8_0", "--outfile", model], check=True)


def prepare() -> protocol.Open:
    """Import the library."""
    import_module("llama_cpp")
    return LlamaModel


class LlamaModel:
    """A context with llama.cpp's defaults: weights mapped from the file, keys and values in fp16."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._library: Any = import_module("llama_cpp")
        # The wrapper sets up model and context; its own eval() would add Python's time to every token.
        self._llama = self._library.Llama(
            str(folder / "model.gguf"),
            n_ctx=protocol.CAPACITY,
            n_batch=protocol.CAPACITY,
            n_ubatch=protocol.PREFILL_TOKENS,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )
        self._context = self._llama.ctx
        self._vocabulary = self._llama.n_vocab()
        self.notes = f"llama-cpp-python {self._library.__version__}, Q8_0, built without AMX"

    def prefill(self, ids: list[int], capacity: int) -> int:
        """Empty the cache, whose size is fixed, and feed the prompt."""
        del capacity
        self._clear()
        return self._feed(ids)

    def step(self, token: int) -> int:
        return self._feed([token])

    def logits(self, ids: list[int]) -> Any:
        library = self._library
        self._clear()
        batch = library.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = True
        self._decode(batch)
        library.llama_batch_free(batch)
        shape = (len(ids), self._vocabulary)
        return np.ctypeslib.as_array(library.llama_get_logits(self._context), shape=shape)

    def _clear(self) -> None:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)

    def _feed(self, ids: list[int]) -> int:
        tokens = (self._library.llama_token * len(ids))(*ids)
        self._decode(self._library.llama_batch_get_one(tokens, len(ids)))
        last = self._library.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(last, shape=(self._vocabulary,)).argmax())

    def _decode(self, batch: Any) -> None:
        status = self._library.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode failed with {status}")


if __name__ == "__main__":
    protocol.main(convert, prepare)
