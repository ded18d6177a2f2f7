"""Check a graph that others exported before ONNX Runtime reads it: its operators, its data, its inputs and outputs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.foreign_files import artifact_file_name, own_file
from pythia_quant.core.text import short

_MOST_BYTES = 2**31 - 1
_DOMAINS = ("", "ai.onnx", "com.microsoft")
"""The domains of operators that are part of ONNX Runtime itself; no library of operators is ever loaded."""
_REFUSED = {"EPContext": "holds compiled code", "Loop": "might never end", "Scan": "might never end"}
_OFFSET = re.compile(r"[0-9]{1,15}")
_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16, TensorProto.INT8: 8, TensorProto.UINT8: 8,
    TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT32: 32, TensorProto.INT64: 64, TensorProto.BOOL: 8,
    TensorProto.DOUBLE: 64,
}  # fmt: skip
_NARROW = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
_GATHERS = ("Gather", "GatherBlockQuantized")
_AGAIN = "it is damaged or altered: download it again, with all its files"


@dataclass(frozen=True)
class ForeignGraph:
    """A graph whose nodes and data were checked.

    Attributes:
        path: the file.
        model: the graph without external data, with plain names of the files that hold them.
        data: the files that hold external data, by the name in the graph.
        streamed_bytes: the bytes of the tensors that are not only looked up in, as embeddings are.
        narrow: whether a matrix has 8 bits or fewer.
    """

    path: Path
    model: ModelProto
    data: dict[str, Path]
    streamed_bytes: int
    narrow: bool


def read_graph(path: Path) -> ForeignGraph:
    """Read and check a graph.

    Raises:
        ArtifactError: it cannot be parsed, has an operator that ONNX Runtime itself does not have, or a node that might
            never end, or names data that are missing, cut short, or outside its folder.
    """
    where = str(path)
    if own_file(path.parent, path.name, ArtifactError) is None:
        raise ArtifactError("there is no such file", where=where)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DecodeError("too large for a graph")
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError, ValueError) as error:
        raise ArtifactError(f"cannot be read as an ONNX model ({error!s:.200})", where=where, hint=_AGAIN) from error
    if not model.graph.node:
        raise ArtifactError("is no ONNX model with a graph", where=where, hint=_AGAIN)
    del model.metadata_props[:]
    nodes = list(_nodes(model))
    own = {function.domain for function in model.functions}
    for node in nodes:
        if node.op_type in _REFUSED:
            raise ArtifactError(f"has a node {node.op_type}, which {_REFUSED[node.op_type]}", where=where)
        if node.domain not in (*_DOMAINS, *own):
            what = f"needs operators of {short(node.domain)}, which are a library of their own; none is loaded"
            raise ArtifactError(what, where=where, hint="export it with operators of ONNX or ONNX Runtime")
    tensors = list(tensors_of(model))
    data: dict[str, Path] = {}
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_place(tensor, path, data)
    looked_up = {node.input[0] for node in nodes if node.op_type in _GATHERS and node.input}
    streamed = sum(_bytes(tensor) for tensor in tensors if tensor.name not in looked_up)
    narrow = any(tensor.data_type in _NARROW and len(tensor.dims) > 1 for tensor in tensors)
    return ForeignGraph(path, model, data, streamed, narrow)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield every node, those of functions and of graphs within nodes included."""
    waiting: list[NodeProto] = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [inner for graph in _graphs(node) for inner in graph.node]


def _graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of a graph, those within its nodes' branches and attributes included."""
    nodes = list(_nodes(model))
    graphs = [model.graph, *(graph for node in nodes for graph in _graphs(node))]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)


def _bytes(tensor: TensorProto) -> int:
    return math.prod(map(int, tensor.dims)) * _BITS.get(int(tensor.data_type), 8) // 8


def _check_place(tensor: TensorProto, path: Path, data: dict[str, Path]) -> None:
    """Refuse a place outside the folder or beyond a file's end; replace a link by the name of what it leads to."""
    entries = {str(entry.key): str(entry.value) for entry in tensor.external_data}
    location, offset, where = entries.get("location", ""), entries.get("offset", "0"), str(path)
    try:
        artifact_file_name(location)
    except ValueError as error:
        what = f"{short(tensor.name)} is said to be in {short(location)}, not within a file of its folder"
        raise ArtifactError(what, where=where, hint="do not use this file") from error
    file = own_file(path.parent, location, ArtifactError)
    if file is None:
        raise ArtifactError("is missing; the graph reads it", where=str(path.parent / location), hint=_AGAIN)
    length = entries.get("length", str(_bytes(tensor)))
    if not (_OFFSET.fullmatch(offset) and _OFFSET.fullmatch(length)) or min(tensor.dims, default=0) < 0:
        raise ArtifactError(f"the place of {short(tensor.name)} makes no sense", where=where, hint=_AGAIN)
    if int(offset) + int(length) > (size := file.stat().st_size) or int(length) != _bytes(tensor):
        what = f"{short(tensor.name)} has {_bytes(tensor):,} bytes from byte {offset} on, the file {size:,}"
        raise ArtifactError(what, where=str(file), hint=_AGAIN)
    data[location] = file
