"""A model and a sequence in llama.cpp's memory, which is freed with their objects."""

from __future__ import annotations

import ctypes
import weakref
from ctypes import POINTER, c_int8, c_int32, c_void_p
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pythia_quant.core.errors import ArtifactError, BenchmarkError
from pythia_quant.formats.gguf.llama_cpp import MEMORY_MAPPED, MESSAGES, Batch, library

TOKENS_AT_ONCE = 512
"""The tokens that one run of the graph computes, llama.cpp's own default (``n_ubatch``)."""
_CONTEXT_STEP = 256  # llama.cpp rounds a context's cells up to a multiple of this
_NO_DEVICE = (c_void_p * 1)()  # an empty list: nothing but the CPU, also where a wheel can use a GPU


class Model:
    """A GGUF file in llama.cpp: its weights mapped, apart from what is packed for the CPU's kernels.

    Args:
        file: the file.
        check_data: whether all weights are read, to refuse those that are not finite.

    Attributes:
        file: the file.
        vocabulary: the number of tokens.
        width: the width of the hidden states.
        layers: the number of layers.
        heads: the number of attention heads.
        context: the number of positions.
        begin: the token that begins a text; None if there is none.
        end: the token that ends a text; None if there is none.
        adds_begin: whether llama.cpp puts `begin` before every text.

    Raises:
        ArtifactError: llama.cpp cannot be loaded, or refuses the file; the message is its own.
    """

    def __init__(self, file: Path, *, check_data: bool = False) -> None:
        api = library()
        params = api.llama_model_default_params()
        params.devices = ctypes.addressof(_NO_DEVICE)
        params.n_gpu_layers, params.load_mode, params.check_tensors = 0, MEMORY_MAPPED, check_data
        MESSAGES.take()
        self.pointer: int | None = api.llama_model_load_from_file(str(file).encode(errors="surrogateescape"), params)
        if not self.pointer:
            hint = "convert again, or download it again"
            raise ArtifactError(f"llama.cpp refuses it ({MESSAGES.take()})", where=str(file), hint=hint)
        weakref.finalize(self, api.llama_model_free, self.pointer)
        self.file, self._vocab = file, api.llama_model_get_vocab(self.pointer)
        self.vocabulary: int = api.llama_vocab_n_tokens(self._vocab)
        self.width: int = api.llama_model_n_embd(self.pointer)
        self.layers: int = api.llama_model_n_layer(self.pointer)
        self.heads: int = api.llama_model_n_head(self.pointer)
        self.context: int = api.llama_model_n_ctx_train(self.pointer)
        self.begin = _token(api.llama_vocab_bos(self._vocab))
        self.end = _token(api.llama_vocab_eos(self._vocab))
        self.adds_begin: bool = api.llama_vocab_get_add_bos(self._vocab)
        self._check_numbers()

    def value(self, key: str) -> str | None:
        """Return a value of the file's metadata as llama.cpp prints it; None if the file has none."""
        buffer = ctypes.create_string_buffer(256)
        length = library().llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return None if length < 0 else buffer.value.decode(errors="replace")

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Return the tokens of a text as llama.cpp finds them, without one that begins it.

        Args:
            text: the text.
            parse_special: whether names of special tokens in the text become these tokens.

        Raises:
            BenchmarkError: llama.cpp finds none, or too many for it.
        """
        encoded = text.encode()
        room = (c_int32 * (len(encoded) + 8))()  # a token has at least a byte
        count = library().llama_tokenize(self._vocab, encoded, len(encoded), room, len(room), False, parse_special)
        if count < 0:
            raise BenchmarkError(f"llama.cpp finds {-count} tokens in {len(encoded)} bytes", where=str(self.file))
        return room[:count]

    def _check_numbers(self) -> None:
        """Refuse what llama.cpp loads but computes wrongly (heads of odd size), never ends, or ends the process for.

        Raises:
            ArtifactError: the model is of this kind.
        """
        kind = self.value("general.architecture")
        size = self.width // self.heads if self.heads else 0
        rotary = int(self.value(f"{kind}.rope.dimension_count") or size)
        if kind != "gptneox":
            what = f"it is a {kind} model, not GPT-NeoX"
        elif self.context < 1:  # C reads it without a sign
            what = f"its context of {self.context % 2**32} positions is none"
        elif size == 0 or size % 2 or self.width % self.heads:
            what = f"llama.cpp computes no {self.heads} heads in a width of {self.width}: their size must be even"
        elif rotary % 2 or not 0 < rotary <= size:
            what = (
                f"llama.cpp rotates no {rotary} dimensions of {size}: an even number of them, at least 2, must rotate"
            )
        else:
            return
        raise ArtifactError(what, where=str(self.file), hint="choose another model or format")


def _token(token: int) -> int | None:
    return None if token < 0 else token


class Cells:
    """The keys and values of one sequence in llama.cpp: a ``llama_context``.

    Args:
        model: the model.
        capacity: the tokens that there must be room for.
        threads: the threads of the kernels.
        all_logits: whether logits of all tokens will be asked for; the memory for them is as large as theirs.

    Raises:
        ArtifactError: llama.cpp cannot run the model, or does not take the parameters.
    """

    def __init__(self, model: Model, capacity: int, threads: int, *, all_logits: bool) -> None:
        api = library()
        params = api.llama_context_default_params()
        params.n_ctx = -(-max(capacity, 1) // _CONTEXT_STEP) * _CONTEXT_STEP
        params.n_batch = params.n_ubatch = min(TOKENS_AT_ONCE, params.n_ctx)
        params.n_outputs_max = params.n_outputs_max_per_seq = params.n_batch if all_logits else 1
        params.n_threads = params.n_threads_batch = threads
        params.offload_kqv = params.op_offload = False
        MESSAGES.take()
        self.pointer: int | None = api.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            hint = "give fewer tokens if memory is short; else convert again"
            raise ArtifactError(f"llama.cpp cannot run it ({MESSAGES.take()})", where=str(model.file), hint=hint)
        weakref.finalize(self, api.llama_free, self.pointer)
        self._model = model
        self.capacity: int = params.n_ctx
        for field in ("n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch"):
            wanted, found = getattr(params, field), getattr(api, f"llama_{field}")(self.pointer)
            if found != wanted:
                raise ArtifactError(f"llama.cpp takes {field} as {found}, not {wanted}: its interface is another")

    def clear(self) -> None:
        """Forget all tokens."""
        library().llama_memory_clear(library().llama_get_memory(self.pointer), False)

    def keep(self, tokens: int) -> None:
        """Forget all but the first `tokens`.

        Raises:
            BenchmarkError: llama.cpp cannot.
        """
        if not library().llama_memory_seq_rm(library().llama_get_memory(self.pointer), 0, tokens, -1):
            raise BenchmarkError(f"llama.cpp cannot go back to {tokens} tokens", where=str(self._model.file))

    def feed(self, ids: NDArray[np.int32], logits: NDArray[np.float32]) -> None:
        """Append tokens, int32 [tokens], at most :data:`TOKENS_AT_ONCE`; fill `logits` for the last of them.

        Args:
            ids: the tokens.
            logits: fp32 [tokens, vocabulary], or [1, vocabulary] for the last token only; contiguous.

        Raises:
            BenchmarkError: llama.cpp refuses them: there are no cells left, or one is no token of the model.
        """
        batch = Batch(n_tokens=len(ids), token=ids.ctypes.data_as(POINTER(c_int32)))
        wanted = np.zeros(len(ids), np.int8)
        wanted[-len(logits) :] = 1
        batch.logits = wanted.ctypes.data_as(POINTER(c_int8))
        MESSAGES.take()
        api = library()
        status = api.llama_decode(self.pointer, batch)
        found = api.llama_get_logits(self.pointer) if status == 0 else None
        if not found:
            raise BenchmarkError(f"llama.cpp fails with {status} ({MESSAGES.take()})", where=str(self._model.file))
        ctypes.memmove(logits.ctypes.data, found, logits.nbytes)
