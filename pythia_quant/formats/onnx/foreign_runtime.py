"""Run a graph that others exported in ONNX Runtime, with keys and values of earlier tokens if it takes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pythia_quant.core.errors import ArtifactError, BenchmarkError
from pythia_quant.core.text import short
from pythia_quant.formats.onnx.foreign_graph import ForeignGraph, read_graph, tensors_of
from pythia_quant.formats.onnx.library import ort
from pythia_quant.runtimes.protocol import check_capacity

IDS, MASK, POSITIONS, BRANCH, LOGITS = "input_ids", "attention_mask", "position_ids", "use_cache_branch", "logits"
PAST = re.compile(r"past_key_values\.([0-9]{1,4})\.(key|value)")
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_HINT = "export it for text generation, as optimum does"


def open_runtime(path: Path, threads: int, device: str = "cpu") -> ForeignOnnxRuntime:  # noqa: ARG001 - ONNX runs on CPUs
    """Load a graph with ONNX Runtime's own settings, as its users do.

    Raises:
        ArtifactError: it is damaged, or ONNX Runtime refuses it, or it has inputs that are not understood.
    """
    graph = read_graph(path)
    return ForeignOnnxRuntime(_session(graph, threads), path)


def _session(graph: ForeignGraph, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    targets = {name: file.resolve() for name, file in graph.data.items()}
    folders = {target.parent for target in targets.values()} or {graph.path.resolve().parent}
    linked = any(target.name != name for name, target in targets.items())
    try:
        if not linked:  # the path, not bytes: a graph with its weights may be as large as a message can be
            return ort.InferenceSession(str(graph.path.resolve()), options, providers=["CPUExecutionProvider"])
        if len(folders) > 1:
            raise ArtifactError("its data are links into several folders", where=str(graph.path), hint="copy them")
        for tensor in tensors_of(graph.model):
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = targets[entry.value].name
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(folders.pop()))
        return ort.InferenceSession(graph.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except ArtifactError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise ArtifactError(f"ONNX Runtime refuses it ({error!s:.300})", where=str(graph.path)) from error


class ForeignOnnxRuntime:
    """A loaded graph; see :class:`pythia_quant.runtimes.protocol.Runtime`.

    A graph without past keys and values computes all tokens again for each new one, as its users have to.

    Args:
        session: the graph in ONNX Runtime.
        path: the file, for messages.

    Raises:
        ArtifactError: its inputs or outputs are not those of a language model.
    """

    def __init__(self, session: ort.InferenceSession, path: Path) -> None:
        self._session, self._path = session, path
        self._inputs = {entry.name: entry for entry in session.get_inputs()}
        self._outputs = [entry.name for entry in session.get_outputs()]
        unknown = [one for one in self._inputs if one not in (IDS, MASK, POSITIONS, BRANCH) and not PAST.fullmatch(one)]
        if IDS not in self._inputs or LOGITS not in self._outputs or unknown:
            what = f"has an input {short(unknown[0])}" if unknown else f"lacks the input {IDS} or the output {LOGITS}"
            raise ArtifactError(f"{what}, which is no graph to generate text with", where=str(path), hint=_HINT)
        self._past = [name for name in self._inputs if PAST.fullmatch(name)]
        self._present = [name for name in self._outputs if name != LOGITS and name.endswith((".key", ".value"))]
        if self._past and len(self._present) != len(self._past):
            raise ArtifactError("takes past keys and values, and does not give them", where=str(path), hint=_HINT)
        cache = "" if self._past else ", without past keys and values"
        self.description = f"onnxruntime {ort.__version__} CPU, its graph as exported{cache}"
        self._kept: dict[str, npt.NDArray[Any]] = {}
        self._ids: list[int] = []
        self._capacity: int | None = None

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits of all positions, fp32 [windows, tokens, vocabulary]; each row is computed by itself."""
        return torch.cat([self._run(row[None].numpy(), self._empty(), 0)[0] for row in ids])

    def prefill(self, ids: Tensor, capacity: int) -> Tensor:
        """Begin a sequence with a prompt, int64 [tokens]; return fp32 [vocabulary].

        Raises:
            BenchmarkError: the prompt exceeds the capacity, or ONNX Runtime fails.
        """
        check_capacity(len(ids), capacity)
        self._ids, self._capacity = ids.tolist(), capacity
        logits, self._kept = self._run(ids[None].numpy(), self._empty(), 0)
        return logits[0, -1]

    def step(self, token: int) -> Tensor:
        """Append a token; return fp32 [vocabulary].

        Raises:
            BenchmarkError: there was no prefill, its capacity is used up, or ONNX Runtime fails.
        """
        if self._capacity is None:
            raise BenchmarkError("a token can only follow a prompt", hint="call prefill first")
        check_capacity(len(self._ids) + 1, self._capacity)
        self._ids.append(token)
        new = [token] if self._past else self._ids
        logits, self._kept = self._run(np.array([new], np.int64), self._kept, len(self._ids) - len(new))
        return logits[0, -1]

    def _empty(self) -> dict[str, npt.NDArray[Any]]:
        past = {}
        for name in self._past:
            entry = self._inputs[name]
            shape = entry.shape
            fixed = len(shape) == 4 and isinstance(shape[1], int) and isinstance(shape[3], int)
            if entry.type not in _TYPES or not fixed or not 0 < shape[1] * shape[3] <= 2**24:
                what = f"{name} is {entry.type} {shape}; [batch, heads, tokens, size] is needed"
                raise ArtifactError(what, where=str(self._path), hint=_HINT)
            past[name] = np.zeros((1, shape[1], 0, shape[3]), _TYPES[entry.type])
        return past

    def _run(
        self, ids: npt.NDArray[np.int64], past: dict[str, npt.NDArray[Any]], before: int
    ) -> tuple[Tensor, dict[str, npt.NDArray[Any]]]:
        tokens = ids.shape[1]
        known = {
            IDS: ids,
            MASK: np.ones((1, before + tokens), np.int64),
            POSITIONS: np.arange(before, before + tokens)[None],
            BRANCH: np.array([before > 0]),
        }
        feeds = {name: known[name] for name in self._inputs if name in known} | past
        try:
            logits, *present = self._session.run([LOGITS, *(self._present if self._past else [])], feeds)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise BenchmarkError(f"ONNX Runtime fails on it ({error!s:.300})", where=str(self._path)) from error
        if logits.ndim != 3 or logits.shape[:2] != ids.shape:
            what = f"gives logits of shape {list(logits.shape)} for {tokens} tokens"
            raise BenchmarkError(what, where=str(self._path), hint=_HINT)
        kept = {_past_name(name): value for name, value in zip(self._present, present, strict=False)}
        return torch.from_numpy(np.asarray(logits, np.float32)), kept


def _past_name(present: str) -> str:
    layer, part = present.split(".")[-2:]
    return f"past_key_values.{layer}.{part}"
