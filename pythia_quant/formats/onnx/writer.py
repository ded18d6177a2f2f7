"""Convert a checkpoint into an ONNX artifact, a layer at a time."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from torch import Tensor

from pythia_quant import architecture as checkpoint
from pythia_quant.formats.job import Job, Written
from pythia_quant.formats.onnx import blocks, graph
from pythia_quant.formats.onnx.external import ExternalWriter, model_path
from pythia_quant.formats.onnx.fold import FoldedLayer, fold, unfold
from pythia_quant.formats.onnx.settings import OnnxSettings
from pythia_quant.layerwise import Forward, read_layer


@torch.no_grad()
def write(job: Job[OnnxSettings]) -> Written:
    """Write ``onnx/model.onnx`` (all fp32) or ``onnx/model_quantized.onnx``, its data beside it, and ``config.json``.

    Returns:
        Logits of the probe from the weights as they are meant to be stored, computed without the files.

    Raises:
        QuantizationError: the block size does not divide a width.
        SourceError: a source tensor is missing or not finite.
    """
    source, settings, shape = job.source, job.settings, job.source.architecture
    quantized = "int8" in (settings.weights, settings.embeddings, settings.head)
    path = model_path(job.folder, quantized=quantized)
    path.parent.mkdir(parents=True)
    forward = Forward(shape, job.probe)
    with ExternalWriter(path) as data:
        job.report("embeddings", 0, 1)
        forward.embed(_embeddings(data, source.read(checkpoint.EMBEDDING).float(), settings))
        for index in range(shape.layers):
            job.report("layer", index, shape.layers)
            folded = fold(shape, read_layer(source, index))
            forward.layer(unfold(shape, _layer(data, index, folded, settings)))
        gain, bias = (source.read(f"{checkpoint.FINAL_NORM}.{part}").float() for part in ("weight", "bias"))
        data.add(f"{graph.FINAL_NORM}.weight", gain)
        data.add(f"{graph.FINAL_NORM}.bias", bias)
        job.report("head", 0, 1)
        head = _linear(data, graph.HEAD, source.read(checkpoint.HEAD).float(), settings.head, settings.block_size)
    path.write_bytes(graph.build(shape, settings, data.tensors).SerializeToString())
    (job.folder / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n", encoding="utf-8")
    return Written(data.tensor_bytes, F.linear(forward.finish(gain, bias), head))


def _embeddings(data: ExternalWriter, table: Tensor, settings: OnnxSettings) -> Tensor:
    """Store the embedding matrix, fp32 [vocabulary, width], and return what a reader will get."""
    if settings.embeddings == "fp32":
        data.add(f"{graph.EMBEDDINGS}.weight", table)
        return table
    quantized = blocks.quantize(table, settings.block_size)
    data.add(f"{graph.EMBEDDINGS}.codes", quantized.stored())
    data.add(f"{graph.EMBEDDINGS}.scales", quantized.scales)
    return quantized.dequantize()


def _layer(data: ExternalWriter, index: int, folded: FoldedLayer, settings: OnnxSettings) -> FoldedLayer:
    """Store a layer and return what a reader will get."""
    names = graph.inner(index), graph.outer(index)
    data.add(f"{names[0]}.bias", folded.inner_bias)
    data.add(f"{names[1]}.bias", folded.outer_bias)
    inner, outer = (
        _linear(data, name, weight, settings.weights, settings.block_size)
        for name, weight in zip(names, (folded.inner, folded.outer), strict=True)
    )
    return FoldedLayer(inner, folded.inner_bias, outer, folded.outer_bias)


def _linear(data: ExternalWriter, name: str, weight: Tensor, kind: str, block_size: int) -> Tensor:
    """Store a weight, fp32 [out, in], and return what a reader will get."""
    if kind == "fp32":
        data.add(f"{name}.weight", weight.t())
        return weight
    quantized = blocks.quantize(weight, block_size)
    data.add(f"{name}.codes", quantized.stored().view(*quantized.scales.shape, block_size))
    data.add(f"{name}.scales", quantized.scales)
    return quantized.dequantize()
