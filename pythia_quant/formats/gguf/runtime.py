"""Run a GGUF file in llama.cpp as its users do: weights mapped, keys and values in fp16, its own choice of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pythia_quant.core.errors import ArtifactError, BenchmarkError
from pythia_quant.formats.gguf.header import TensorPlace
from pythia_quant.formats.gguf.llama_cpp import BUILD, PACKAGE, TESTED
from pythia_quant.formats.gguf.loaded import TOKENS_AT_ONCE, Cells, Model
from pythia_quant.formats.gguf.reader import read
from pythia_quant.model.architecture import EMBEDDING, HEAD, LINEARS, Architecture
from pythia_quant.runtimes.protocol import check_capacity

_LINEAR_WEIGHTS = tuple(f"{linear}.weight" for linear in LINEARS)


def open_runtime(folder: Path, threads: int) -> LlamaCppRuntime:
    """Load an artifact.

    Raises:
        ArtifactError: a file is missing or damaged, llama.cpp cannot be loaded, or it refuses the file.
        SourceError: ``config.json`` is missing or not understood.
    """
    weights = read(folder)
    return open_file(weights.path, weights.architecture, threads, types_in_words(weights.places))


def types_in_words(places: Mapping[str, TensorPlace]) -> str:
    """Return the types of the matrices of a model, whose tensors have their names in a checkpoint."""
    layers = sorted({place.kind for name, place in places.items() if name.endswith(_LINEAR_WEIGHTS)})
    words = {"layers": " and ".join(layers), "embeddings": places[EMBEDDING].kind, "head": places[HEAD].kind}
    if len({*words.values()}) == 1:
        return f"{words['head'].upper()} weights"
    return ", ".join(f"{part} {kind.upper()}" for part, kind in words.items())


def open_file(file: Path, architecture: Architecture, threads: int, description_of_types: str) -> LlamaCppRuntime:
    """Load a file that the reader has checked, with a look at all weights, since one that is not finite spoils all.

    Args:
        file: the GGUF file.
        architecture: the model's shape, as the source or the reader gives it.
        threads: the threads of the kernels.
        description_of_types: how the weights are stored, such as ``Q4_0 weights``.

    Raises:
        ArtifactError: llama.cpp cannot be loaded, refuses the file, or reads another model than `architecture`.
    """
    model = Model(file, check_data=True)
    check_shape(model, architecture)
    return LlamaCppRuntime(model, threads, runtime_description(description_of_types))


def runtime_description(types: str) -> str:
    """Return the library and what it computes with, which tables show beside every number."""
    return f"llama.cpp {BUILD} ({PACKAGE} {TESTED}) CPU, {types}, fp16 KV cache, flash attention"


def check_shape(model: Model, architecture: Architecture) -> None:
    """Refuse a model that llama.cpp reads as one of another shape.

    Raises:
        ArtifactError: they differ; the message names the first difference.
    """
    parallel = str(architecture.parallel_residual).lower()
    for what, found, expected in (
        ("architecture", model.value("general.architecture"), "gptneox"),
        ("vocabulary", model.vocabulary, architecture.vocabulary),
        ("width", model.width, architecture.width),
        ("layers", model.layers, architecture.layers),
        ("heads", model.heads, architecture.heads),
        ("context", model.context, architecture.context),
        ("parallel residual", model.value("gptneox.use_parallel_residual"), parallel),
        ("rotary size", model.value("gptneox.rope.dimension_count"), str(architecture.rotary_size)),
    ):
        if found != expected:
            raise ArtifactError(
                f"llama.cpp reads another model than its source: {what} is {found}, not {expected}",
                where=str(model.file),
                hint="convert again, or name the source that it was made from",
            )


class LlamaCppRuntime:
    """A loaded file; see :class:`pythia_quant.runtimes.protocol.Runtime`.

    Args:
        model: the model.
        threads: the threads of the kernels.
        description: the library and what it computes with, for people.
    """

    def __init__(self, model: Model, threads: int, description: str) -> None:
        self.description, self.model = description, model
        self._threads = threads
        self._cells: Cells | None = None
        self._length = self._capacity = 0

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits of all positions. Each row is computed by itself, in pieces as when text is generated.

        Raises:
            BenchmarkError: a row is longer than the model's context, or has a number that is no token.
        """
        rows, tokens = ids.shape
        self._check_context(tokens)
        result = torch.empty(rows, tokens, self.model.vocabulary)
        cells = Cells(self.model, tokens, self._threads, all_logits=True)
        for row in range(rows):
            cells.clear()
            for start in range(0, tokens, TOKENS_AT_ONCE):
                piece = slice(start, start + TOKENS_AT_ONCE)
                cells.feed(_int32(ids[row, piece]), result[row, piece].numpy())
        return result

    def prefill(self, ids: Tensor, capacity: int) -> Tensor:
        """Start over with a prompt, int64 [tokens]; return the last position's logits, fp32 [vocabulary].

        Raises:
            ArtifactError: llama.cpp has no memory for so many tokens.
            BenchmarkError: more tokens are asked for than the model has positions, the prompt exceeds `capacity`, or a
                number is no token.
        """
        self._check_context(capacity)
        check_capacity(len(ids), capacity)
        if self._cells is None or self._cells.capacity < capacity:
            self._cells = None  # so that two are never in memory
            self._cells = Cells(self.model, capacity, self._threads, all_logits=False)
        self._cells.clear()
        self._length, self._capacity = 0, capacity
        return self.extend(ids)

    def step(self, token: int) -> Tensor:
        """Feed one more token; return fp32 [vocabulary].

        Raises:
            BenchmarkError: there was no prefill, its capacity is used up, or `token` is no token.
        """
        return self.extend(torch.tensor([token]))

    def extend(self, ids: Tensor) -> Tensor:
        """Feed more tokens, int64 [tokens]; return the last one's logits, fp32 [vocabulary].

        Raises:
            BenchmarkError: there was no prefill, its capacity is used up, or a number is no token.
        """
        if self._cells is None:
            raise BenchmarkError("tokens can only follow a prompt", hint="call prefill first")
        check_capacity(self._length + len(ids), self._capacity)
        last = torch.empty(1, self.model.vocabulary)
        for start in range(0, len(ids), TOKENS_AT_ONCE):
            piece = _int32(ids[start : start + TOKENS_AT_ONCE])
            self._cells.feed(piece, last.numpy())
            self._length += len(piece)
        return last[0]

    def rewind(self, tokens: int) -> None:
        """Forget all but the first `tokens` of the sequence.

        Raises:
            BenchmarkError: llama.cpp cannot.
        """
        if self._cells is not None and tokens < self._length:
            self._cells.keep(tokens)
            self._length = tokens

    def _check_context(self, tokens: int) -> None:
        if tokens > self.model.context:
            raise BenchmarkError(
                f"{tokens} tokens are asked for; the model has {self.model.context} positions",
                hint="shorten the prompt or generate fewer tokens",
            )


def _int32(ids: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    return np.ascontiguousarray(ids.numpy(), np.int32)
