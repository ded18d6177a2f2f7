"""Compare a stored graph with the graph that this program builds for its shape and settings.

A graph is a program, and an artifact may come from anywhere, so only graphs that equal our own are run. The comparison
takes as long as to build a graph, 20 ms for 6 layers, because it does not need the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, numpy_helper

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.onnx import graph, nodes
from pythia_quant.formats.onnx.data_file import StoredModel, find_model
from pythia_quant.formats.onnx.nodes import OFFSETS, Product
from pythia_quant.formats.onnx.rotary import rotated_pairs
from pythia_quant.formats.onnx.token_tables import Piece, pieces
from pythia_quant.formats.tensor_files import AGAIN, read_artifact_config
from pythia_quant.model.architecture import CONTRACT, Architecture
from pythia_quant.recipe.onnx_variant import OnnxSettings

Layout = tuple[int, tuple[int, ...]]
"""A tensor's type, by its number in ONNX, and its shape."""

_ROUNDING = 4e-7
"""The largest difference of rotary tables from ours, divided by the context, which is the largest angle. CPUs differ in
the last bits of fp32 of powers, sines and cosines."""


def open_model(folder: Path) -> tuple[StoredModel, Architecture]:
    """Open an artifact's model, and check that its graph is ours.

    Raises:
        ArtifactError: a file is missing or damaged, or the graph or a tensor differs from the one that belongs to
            config.json and the settings in the model.
        SourceError: ``config.json`` is not that of a GPT-NeoX.
    """
    config = read_artifact_config(folder)
    if config.quantization:
        what = "config.json has a quantization_config, which the ONNX format has not"
        raise ArtifactError(what, where=str(folder), hint=AGAIN)
    shape = config.architecture
    model = StoredModel(find_model(folder))
    where = str(model.path)
    stored = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    external = [tensor for tensor in stored.values() if tensor.data_location == TensorProto.EXTERNAL]
    if misfit := model.settings.fits(shape.width, shape.mlp_width, shape.layers):
        raise ArtifactError(f"its settings do not fit config.json: {misfit.why}", where=where, hint=AGAIN)
    layouts = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in external}
    _check_layouts(layouts, model.settings, shape, where)
    tables = [stored.get(f"rotary_{name}") for name in ("cosines", "sines")]
    if any(table is None or tuple(table.dims) != (shape.context, rotated_pairs(shape)) for table in tables):
        raise ArtifactError("its rotary tables are not those of config.json", where=where, hint=_OTHER)
    # Only after the tables' check: for an invented context in config.json, our own tables would take all memory.
    ours = graph.build(shape, model.settings, external, mark="")
    if not _is_same(model.proto, ours, _ROUNDING * (shape.context + 1)):
        raise ArtifactError("its graph is not the one that this version builds for it", where=where, hint=_OTHER)
    return model, shape


_OTHER = "another version of pythia-quant wrote it, or it was altered: convert or download it again"


def _is_same(stored: ModelProto, ours: ModelProto, tolerance: float) -> bool:
    """Say whether two models are equal, apart from metadata and the last bits of constants."""
    copy, constants = ModelProto(), {tensor.name: tensor for tensor in stored.graph.initializer}
    copy.CopyFrom(stored)
    for tensor in ours.graph.initializer:
        other = constants.get(tensor.name)
        if other is None or (other != tensor and not _is_close(other, tensor, tolerance)):
            return False
    if len(stored.graph.initializer) != len(ours.graph.initializer):
        return False
    for model in (copy, ours):
        del model.graph.initializer[:]
        del model.metadata_props[:]
    return bool(copy.SerializeToString(deterministic=True) == ours.SerializeToString(deterministic=True))


def _is_close(stored: TensorProto, ours: TensorProto, tolerance: float) -> bool:
    if (stored.data_type, stored.dims) != (ours.data_type, ours.dims) or stored.data_location != ours.data_location:
        return False
    if ours.data_type != TensorProto.FLOAT or ours.data_location == TensorProto.EXTERNAL:
        return False
    stored_values, our_values = _values(stored), _values(ours)
    if stored_values is None or our_values is None:
        return False
    return bool(np.allclose(stored_values, our_values, rtol=0, atol=tolerance))


def _values(tensor: TensorProto) -> npt.NDArray[Any] | None:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError):  # the tensor has too many or too few bytes for its shape
        return None


def _check_layouts(stored: dict[str, Layout], settings: OnnxSettings, shape: Architecture, where: str) -> None:
    expected = _layouts(settings, shape, stored)
    for name, layout in expected.items():
        if stored.get(name) != layout:
            what = f"{name} is {stored.get(name, 'missing')!s:.80}; {layout} is expected"
            raise ArtifactError(what, where=where, hint="model and config.json do not belong together")
    for name in stored.keys() - expected.keys():
        raise ArtifactError(f"the tensor {name!r:.200} does not belong there", where=where, hint=AGAIN)


def _layouts(settings: OnnxSettings, shape: Architecture, stored: dict[str, Layout]) -> dict[str, Layout]:
    """Return the layout of each tensor that the writer stores; zero points are optional, and follow `stored`."""
    d = shape.width
    layouts: dict[str, Layout] = {f"{nodes.FINAL_NORM}.{part}": (_FLOAT, (d,)) for part in ("weight", "bias")}
    for piece in pieces(settings, settings.embeddings_choice(), shape.vocabulary):
        layouts |= _embeddings(piece, shape.width)
    for product in nodes.heads(settings, shape):
        layouts |= _product(product, stored)
    for index in range(shape.layers):
        layouts |= dict.fromkeys((nodes.norm_gain(shape, index, norm) for norm in nodes.NORMS), (_FLOAT, (d,)))
        for product in nodes.inner(settings, shape, index):
            layouts |= _product(product, stored) | {f"{product.name}.bias": (_FLOAT, (product.rows,))}
        for product in nodes.outer(settings, shape, index):
            layouts |= _product(product, stored)
            if product.bias:
                layouts[f"{product.name}.bias"] = _FLOAT, (d,)
            if product.members == (CONTRACT,) and product.choice.in_channels and OFFSETS[shape.activation]:
                layouts[f"{product.name}.shift"] = _FLOAT, (d,)
    return layouts


_FLOAT, _UINT8, _INT8 = int(TensorProto.FLOAT), int(TensorProto.UINT8), int(TensorProto.INT8)


def _embeddings(piece: Piece, columns: int) -> dict[str, Layout]:
    name, rows, choice = f"{nodes.EMBEDDINGS}{piece.suffix}", piece.count, piece.choice
    if choice.weights == "fp32":
        return {f"{name}.weight": (_FLOAT, (rows, columns))}
    codes = (_INT8, (rows, columns)) if choice.weights == "int8" else (_UINT8, (rows, columns // 2))
    return {f"{name}.codes": codes, f"{name}.scales": (_FLOAT, (rows, columns // choice.block_size))}


def _product(product: Product, stored: dict[str, Layout]) -> dict[str, Layout]:
    name, choice, rows, columns = product.name, product.choice, product.rows, product.columns
    if choice.weights == "fp32":
        return {f"{name}.weight": (_FLOAT, (columns, rows))}
    if choice.in_channels:
        return {f"{name}.codes": (_INT8, (columns, rows)), f"{name}.scales": (_FLOAT, (rows,))}
    blocks = columns // choice.block_size
    layouts = {
        f"{name}.codes": (_UINT8, (rows, blocks, choice.block_size * choice.bits // 8)),
        f"{name}.scales": (_FLOAT, (rows, blocks)),
    }
    if (zeros := f"{name}.zero_points") in stored:
        layouts[zeros] = _UINT8, (rows, -(-blocks * choice.bits // 8))
    return layouts
