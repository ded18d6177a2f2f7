"""Run an ONNX artifact in onnxruntime: whole, or cut into parts one after the other where it is larger than memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from onnx import GraphProto, ModelProto, TensorProto, helper
from torch import Tensor

from pythia_quant.core.errors import ArtifactError, BenchmarkError
from pythia_quant.formats.onnx import names
from pythia_quant.formats.onnx.data_file import StoredModel
from pythia_quant.formats.onnx.graph_check import open_model
from pythia_quant.formats.onnx.kernel_check import exact_session_entries
from pythia_quant.formats.onnx.library import ort
from pythia_quant.formats.onnx.rotary import kept_head_size
from pythia_quant.model.architecture import DENSE, Architecture
from pythia_quant.recipe.onnx_variant import Choice, OnnxSettings
from pythia_quant.runtimes.protocol import Stage, check_capacity


def cut(model: ModelProto, begin: str | None, end: str) -> ModelProto:
    """Return the part of a model that computes one tensor from another.

    Args:
        model: the model; its external data stays where it is.
        begin: the fp32 tensor, [batch, tokens, width], that becomes an input; None to begin with the model's inputs.
        end: the fp32 tensor that becomes the only output.

    Returns:
        A model with that part's nodes and initializers, and those of the model's inputs that they read.
    """
    producers = {output: index for index, node in enumerate(model.graph.node) for output in node.output if output}
    needed: set[int] = set()
    read: set[str] = set()
    waiting = [end]
    while waiting:
        name = waiting.pop()
        if name in read or name in ("", begin):
            continue
        read.add(name)
        if name in producers:
            needed.add(producers[name])
            waiting += model.graph.node[producers[name]].input
    source = model.graph
    inputs = [info for info in source.input if info.name in read]
    if begin is not None:
        inputs.append(helper.make_tensor_value_info(begin, TensorProto.FLOAT, None))
    part = GraphProto(
        name=end,
        node=[node for index, node in enumerate(source.node) if index in needed],
        initializer=[tensor for tensor in source.initializer if tensor.name in read],
        input=inputs,
        output=[helper.make_tensor_value_info(end, TensorProto.FLOAT, None)],
    )
    return ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=part)


def cut_into_layers(model: ModelProto, layers: int) -> Sequence[ModelProto]:
    """Cut a model of this program into its embedding, each of its layers, and its end."""
    seams = names.seams(layers)
    return [cut(model, begin, end) for begin, end in zip([None, *seams[:-1]], seams, strict=True)]


# Measured on prompts of 512 and 2,048 tokens in the 70m and 160m shapes: smaller pieces waste matrix units, larger ones
# make the attention operator compute more of the upper triangle.
_TOKENS_AT_ONCE = 256

# Its tiled kernel was slower in all of them: 11 ms against 3.4 for 512 tokens of 12 heads of 64, two threads.
_NO_TILED_ATTENTION = "ORT_GQA_DISABLE_FLASH_ATTENTION"


def open_runtime(folder: Path, threads: int) -> OnnxRuntime:
    """Load an artifact's model; its weights are memory-mapped, apart from what ONNX Runtime packs for its kernels.

    Raises:
        ArtifactError: files are missing, truncated, not finite, or ONNX Runtime refuses the model.
        SourceError: ``config.json`` is missing or not understood.
    """
    stored, architecture = open_model(folder)  # names the file and the byte where data are missing, and runs no other
    stored.check_finite()
    session = open_session(stored.proto, stored, threads)
    return OnnxRuntime(session, architecture, runtime_description(stored.settings))


def open_session(part: ModelProto, stored: StoredModel, threads: int) -> ort.InferenceSession:
    """Load a part of a stored model, or all of it.

    Raises:
        ArtifactError: ONNX Runtime refuses it, or would not multiply its integers exactly on this CPU.
    """
    path = stored.path
    model, folder = stored.detach(part)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors: it would warn that num_logits_to_keep may be overridden, which is meant
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    for key, value in exact_session_entries(stored.settings, path).items():
        options.add_session_config_entry(key, value)
    os.environ.setdefault(_NO_TILED_ATTENTION, "1")
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        hint = "convert again; this program is tested with onnxruntime 1.31"
        raise ArtifactError(f"ONNX Runtime refuses it ({error})", where=str(path), hint=hint) from error


class OnnxRuntime:
    """A loaded model; see :class:`pythia_quant.runtimes.protocol.Runtime`.

    Args:
        session: the session of a model that this program wrote.
        architecture: the model's shape.
        description: the library, kernels and dtypes, for people.
    """

    def __init__(self, session: ort.InferenceSession, architecture: Architecture, description: str) -> None:
        self.description = description
        self._session, self._shape = session, architecture
        self._sequence: _Sequence | None = None

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits of all positions. Each row is computed by itself, in pieces as when text is generated."""
        rows, tokens = ids.shape
        result = torch.empty(rows, tokens, self._shape.vocabulary)
        for row in range(rows):
            sequence = _Sequence(self._session, self._shape, tokens)
            for start in range(0, tokens, _TOKENS_AT_ONCE):
                piece = slice(start, start + _TOKENS_AT_ONCE)
                sequence.feed(ids[row, piece], result[row, piece])
        return result

    def prefill(self, ids: Tensor, capacity: int) -> Tensor:
        """Start over with a prompt, int64 [tokens]; return the last position's logits, fp32 [vocabulary].

        Raises:
            BenchmarkError: more tokens are asked for than the model has positions, or the prompt exceeds `capacity`.
        """
        self._sequence = None  # so that two are never in memory
        self._sequence = _Sequence(self._session, self._shape, capacity)
        return self.extend(ids)

    def step(self, token: int) -> Tensor:
        """Feed one more token; return fp32 [vocabulary].

        Raises:
            BenchmarkError: there was no prefill, or its capacity is used up.
        """
        return self.extend(torch.tensor([token]))

    def extend(self, ids: Tensor) -> Tensor:
        """Feed more tokens, int64 [tokens]; return the last one's logits, fp32 [vocabulary].

        Raises:
            BenchmarkError: there was no prefill, or its capacity is used up.
        """
        if self._sequence is None:
            raise BenchmarkError("tokens can only follow a prompt", hint="call prefill first")
        last = torch.empty(1, self._shape.vocabulary)
        for start in range(0, len(ids), _TOKENS_AT_ONCE):
            self._sequence.feed(ids[start : start + _TOKENS_AT_ONCE], last)
        return last[0]

    def rewind(self, tokens: int) -> None:
        """Forget all but the first `tokens` of the sequence."""
        if self._sequence is not None:
            self._sequence.rewind(tokens)


class _Sequence:
    """The keys and values of one sequence. Each run extends them in place, because past and present are one buffer."""

    def __init__(self, session: ort.InferenceSession, shape: Architecture, capacity: int) -> None:
        if capacity > shape.context:
            raise BenchmarkError(
                f"{capacity} tokens are asked for; the model has {shape.context} positions",
                hint="shorten the prompt or generate fewer tokens",
            )
        self._session, self._vocabulary = session, shape.vocabulary
        self._binding = session.io_binding()
        self._length, self._capacity = 0, capacity
        self._mask = np.ones((1, capacity), np.int64)
        dims = [1, shape.heads, capacity, kept_head_size(shape)]
        for layer in range(shape.layers):
            for past, present in zip(names.past(layer), names.present(layer), strict=True):
                buffer = ort.OrtValue.ortvalue_from_shape_and_type(dims, np.float32)
                self._binding.bind_ortvalue_input(past, buffer)
                self._binding.bind_ortvalue_output(present, buffer)

    def feed(self, ids: Tensor, logits: Tensor) -> None:
        """Append tokens, int64 [tokens], and fill `logits`, fp32 [kept, vocabulary], for the last `kept` of them.

        Raises:
            BenchmarkError: the tokens exceed the capacity, beyond which the attention operator would overwrite memory.
        """
        total = self._length + len(ids)
        check_capacity(total, self._capacity)
        kept = len(logits)
        self._binding.bind_cpu_input(names.IDS, ids[None].numpy())
        self._binding.bind_cpu_input(names.MASK, self._mask[:, :total])
        # An input that may be left out is refused by bind_cpu_input.
        self._binding.bind_ortvalue_input(names.LOGITS_TO_KEEP, ort.OrtValue.ortvalue_from_numpy(np.array(kept)))
        dims = [1, kept, self._vocabulary]
        self._binding.bind_output(names.LOGITS, "cpu", 0, np.float32, dims, logits.data_ptr())
        self._session.run_with_iobinding(self._binding)
        self._length = total

    def rewind(self, tokens: int) -> None:
        """Forget all but the first `tokens`: what follows overwrites the others."""
        self._length = min(self._length, tokens)


def runtime_description(settings: OnnxSettings) -> str:
    """Return the library, kernels and dtypes, which tables show beside every number."""
    return f"onnxruntime {ort.__version__} CPU, {_kinds(settings)}"


def _kinds(settings: OnnxSettings) -> str:
    layers, head, embeddings = (
        settings.linear_choice(0, DENSE),
        settings.head_choice(),
        settings.embeddings_choice(),
    )
    if not settings.quantizes():
        return "fp32"
    parts = [f"layers {_multiplied(layers)}", f"head {_multiplied(head)}", f"embeddings {_stored(embeddings)}"]
    if settings.frequent_tokens:
        parts.append(f"of int4 the first {settings.frequent_tokens:,} tokens and the last in int8")
    exceptions = any(name not in ("head", "embeddings") for name in settings.tensors)
    return ", ".join(parts) + (", with exceptions" if exceptions else "")


def _multiplied(choice: Choice) -> str:
    return "fp32" if choice.weights == "fp32" else f"{_stored(choice)} x {choice.activations}"


def _stored(choice: Choice) -> str:
    return f"{choice.weights} blocks of {choice.block_size}" if choice.in_blocks else choice.weights


class OnnxLayers:
    """An ONNX artifact in pieces; see :class:`pythia_quant.runtimes.protocol.Layered`.

    Args:
        folder: the artifact.
        threads: the threads of the kernels.

    Raises:
        ArtifactError: files are missing, truncated, not finite, or ONNX Runtime refuses a layer.
        SourceError: ``config.json`` is missing or not understood.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self._stored, self._shape = open_model(folder)
        self._stored.check_finite()
        self._threads = threads
        self.description = f"{runtime_description(self._stored.settings)}, layer by layer"
        self.dtype, self.width, self.stages = torch.float32, self._shape.width, self._shape.layers
        self._pieces = cut_into_layers(self._stored.proto, self._shape.layers)

    def embedding(self) -> Stage:
        """Load the first piece."""
        return self._piece(0)

    def stage(self, index: int) -> Stage:
        """Load a layer's piece."""
        return self._piece(index + 1)

    def head(self) -> Stage:
        """Load the last piece, the final norm included."""
        run = self._piece(self.stages + 1)
        return lambda hidden: run(hidden[None])[0]

    def _piece(self, index: int) -> Stage:
        """Load a piece: the embedding, a layer, or the end."""
        session = open_session(self._pieces[index], self._stored, self._threads)
        inputs = {entry.name for entry in session.get_inputs()}
        entered = [names.IDS, *names.seams(self.stages)][index]
        past = inputs.intersection(names.past(index - 1))  # of a layer

        def run(values: Tensor) -> Tensor:
            rows, tokens = values.shape[:2]
            empty = np.zeros((rows, self._shape.heads, 0, kept_head_size(self._shape)), np.float32)
            feeds = dict.fromkeys(past, empty) | {entered: values.numpy()}
            if names.MASK in inputs:
                feeds[names.MASK] = np.ones((rows, tokens), np.int64)
            (result,) = session.run(None, feeds)
            return torch.from_numpy(result)

        return run


def open_layers(folder: Path, threads: int) -> OnnxLayers:
    """Open an artifact to run it layer by layer; see :class:`OnnxLayers`."""
    return OnnxLayers(folder, threads)
