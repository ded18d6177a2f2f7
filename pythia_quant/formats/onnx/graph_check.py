"""A stored graph compared with the one that this program builds for its shape and settings.

A graph is a program, and an artifact may come from anywhere: rather than trust what ONNX Runtime makes of any, only our
own is run. That costs what building it does, 20 ms for 6 layers, because weights take no part.
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
from pythia_quant.formats.tensor_files import AGAIN, read_artifact_config
from pythia_quant.model.architecture import CONTRACT, Architecture
from pythia_quant.recipe.onnx_variant import Choice, OnnxSettings

Layout = tuple[int, tuple[int, ...]]
"""A tensor's type, by its number in ONNX, and its shape."""

_ROUNDING = 4e-7
"""How far rotary tables may be from ours, relative to the context, which is the largest angle: CPUs round powers, sines
and cosines differently in the last bits of fp32."""


def open_model(folder: Path) -> tuple[StoredModel, Architecture]:
    """Open an artifact's model, and check that its graph is ours.

    Raises:
        ArtifactError: files are missing or damaged, or the graph or a tensor is another one than config.json and the
            settings in the model call for.
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
    # Only now: tables of a context that config.json made up would take all memory.
    ours = graph.build(shape, model.settings, external, mark="")
    if not _is_same(model.proto, ours, _ROUNDING * (shape.context + 1)):
        raise ArtifactError("its graph is not the one that this version builds for it", where=where, hint=_OTHER)
    return model, shape


_OTHER = "another version of pythia-quant wrote it, or it was altered: convert or download it again"


def _is_same(found: ModelProto, ours: ModelProto, tolerance: float) -> bool:
    """Compare two models, apart from metadata and the last bits of constants."""
    copy, constants = ModelProto(), {tensor.name: tensor for tensor in found.graph.initializer}
    copy.CopyFrom(found)
    for tensor in ours.graph.initializer:
        other = constants.get(tensor.name)
        if other is None or (other != tensor and not _is_close(other, tensor, tolerance)):
            return False
    if len(found.graph.initializer) != len(ours.graph.initializer):
        return False
    for model in (copy, ours):
        del model.graph.initializer[:]
        del model.metadata_props[:]
    return bool(copy.SerializeToString(deterministic=True) == ours.SerializeToString(deterministic=True))


def _is_close(found: TensorProto, ours: TensorProto, tolerance: float) -> bool:
    if (found.data_type, found.dims) != (ours.data_type, ours.dims) or found.data_location != ours.data_location:
        return False
    if ours.data_type != TensorProto.FLOAT or ours.data_location == TensorProto.EXTERNAL:
        return False
    its, own = _values(found), _values(ours)
    return its is not None and own is not None and bool(np.allclose(its, own, rtol=0, atol=tolerance))


def _values(tensor: TensorProto) -> npt.NDArray[Any] | None:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError):  # not as many bytes as its shape has
        return None


def _check_layouts(found: dict[str, Layout], settings: OnnxSettings, shape: Architecture, where: str) -> None:
    expected = _layouts(settings, shape, found)
    for name, layout in expected.items():
        if found.get(name) != layout:
            what = f"{name} is {found.get(name, 'missing')!s:.80}; {layout} is expected"
            raise ArtifactError(what, where=where, hint="model and config.json do not belong together")
    for name in found.keys() - expected.keys():
        raise ArtifactError(f"the tensor {name!r:.200} does not belong there", where=where, hint=AGAIN)


def _layouts(settings: OnnxSettings, shape: Architecture, found: dict[str, Layout]) -> dict[str, Layout]:
    """Return type and shape of each tensor that the writer stores; zero points where they are found."""
    d = shape.width
    layouts: dict[str, Layout] = {f"{nodes.FINAL_NORM}.{part}": (_FLOAT, (d,)) for part in ("weight", "bias")}
    layouts |= _embeddings(settings.of_embeddings(), shape)
    layouts |= _product(nodes.head(settings, shape), found)
    for index in range(shape.layers):
        layouts |= dict.fromkeys((nodes.norm_gain(shape, index, norm) for norm in nodes.NORMS), (_FLOAT, (d,)))
        for product in nodes.inner(settings, shape, index):
            layouts |= _product(product, found) | {f"{product.name}.bias": (_FLOAT, (product.rows,))}
        for product in nodes.outer(settings, shape, index):
            layouts |= _product(product, found)
            if product.bias:
                layouts[f"{product.name}.bias"] = _FLOAT, (d,)
            if product.members == (CONTRACT,) and product.choice.in_channels and OFFSETS[shape.activation]:
                layouts[f"{product.name}.shift"] = _FLOAT, (d,)
    return layouts


_FLOAT, _UINT8, _INT8 = int(TensorProto.FLOAT), int(TensorProto.UINT8), int(TensorProto.INT8)


def _embeddings(choice: Choice, shape: Architecture) -> dict[str, Layout]:
    name, rows, columns = nodes.EMBEDDINGS, shape.vocabulary, shape.width
    if choice.weights == "fp32":
        return {f"{name}.weight": (_FLOAT, (rows, columns))}
    codes = (_INT8, (rows, columns)) if choice.weights == "int8" else (_UINT8, (rows, columns // 2))
    return {f"{name}.codes": codes, f"{name}.scales": (_FLOAT, (rows, columns // choice.block_size))}


def _product(product: Product, found: dict[str, Layout]) -> dict[str, Layout]:
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
    if (zeros := f"{name}.zero_points") in found:
        layouts[zeros] = _UINT8, (rows, -(-blocks * choice.bits // 8))
    return layouts
