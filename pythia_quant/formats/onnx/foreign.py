"""Graphs that others exported to ONNX: their kind in the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.foreign import Finding, ForeignKind, check_shape, root_of
from pythia_quant.model.architecture import Architecture

if TYPE_CHECKING:
    from pythia_quant.runtimes.protocol import Runtime

# ruff: noqa: PLC0415 - the table of kinds is read without torch and onnx: what needs them is imported when it is needed

_NO_CONFIG = "it has no config.json: its shape was compared as far as the graph's inputs and outputs tell it"


class ForeignOnnxKind(ForeignKind):
    """A graph with input_ids and logits, quantized or not, with or without past keys and values.

    What its weights are worth cannot be told apart from how it is run.
    """

    name: ClassVar[str] = "onnx"
    like: ClassVar[str] = "onnx"
    needs = ("onnx", "onnxruntime")
    extra = "onnx"
    on_gpu = False

    def recognizes(self, path: Path) -> bool:
        graph = graph_of(path)
        if graph is None:
            return False
        from pythia_quant.formats.foreign_checkpoint import read_config_fields

        read_config_fields(root_of(graph))  # refuses one that names code
        return True

    def inspect(self, path: Path, source: Architecture) -> Finding:
        from pythia_quant.formats.foreign_checkpoint import read_config_fields, read_foreign_config
        from pythia_quant.formats.onnx.foreign_graph import read_graph

        graph = read_graph(_graph(path))
        root, has_config = root_of(path), read_config_fields(root_of(path)) is not None
        if has_config:
            check_shape(read_foreign_config(root).architecture, source, str(root / "config.json"))
        _check_interface(graph.model.graph, source, str(graph.path))
        paths = [graph.path, *graph.data.values()]
        size = sum(file.stat().st_size for file in paths)
        return Finding(
            stored="ONNX graph, weights of 8 bits or fewer" if graph.narrow else "ONNX graph",
            quantized=graph.narrow,
            files=[file.relative_to(root).as_posix() for file in paths],
            memory_bytes=size,
            notes=[] if has_config else [_NO_CONFIG],
        )

    def open_weights(self, folder: Path) -> None:  # noqa: ARG002 - nothing says which of its tensors are which
        return None

    def streamed_bytes(self, folder: Path) -> int:
        from pythia_quant.formats.onnx.foreign_graph import read_graph

        return read_graph(_graph(folder)).streamed_bytes

    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        from pythia_quant.formats.onnx.foreign_runtime import open_runtime

        return lambda folder, threads, device: open_runtime(_graph(folder), threads, device)


def graph_of(path: Path) -> Path | None:
    """Return the graph that a path names: a file, or the only one in a folder and in ``onnx/`` below it.

    Raises:
        ArtifactError: a folder holds several.
    """
    if path.is_file():
        return path if path.suffix == ".onnx" else None
    graphs = sorted([*path.glob("*.onnx"), *path.glob("onnx/*.onnx")])
    if len(graphs) > 1:
        names = ", ".join(graph.relative_to(path).as_posix() for graph in graphs[:8])
        raise ArtifactError("holds several graphs", where=str(path), hint=f"give one of the files: {names}")
    return graphs[0] if graphs else None


def _graph(path: Path) -> Path:
    if (graph := graph_of(path)) is None:
        raise ArtifactError("holds no graph", where=str(path), hint="download it again")
    return graph


def _check_interface(graph: object, source: Architecture, where: str) -> None:
    """Compare with the source what inputs and outputs say: layers, heads, their size, and the vocabulary."""
    from pythia_quant.formats.onnx.foreign_runtime import LOGITS, PAST

    dims = {
        value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)  # type: ignore[attr-defined]
    }
    past = {name: shape for name, shape in dims.items() if PAST.fullmatch(name)}
    expected = {name: [None, source.heads, None, source.head_size] for name in past} | {
        LOGITS: [None, None, source.vocabulary]
    }
    if past and len(past) != 2 * source.layers:
        raise ArtifactError(f"has {len(past) // 2} layers, the source {source.layers}", where=where)
    for name, shape in expected.items():
        found = dims.get(name, [])
        if len(found) not in (0, len(shape)) or any(
            one and other and one != other for one, other in zip(found, shape, strict=False)
        ):
            raise ArtifactError(f"{name} is {found}; of the source it would be {shape}", where=where)
