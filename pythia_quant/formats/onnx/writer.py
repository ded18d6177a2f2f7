"""Convert a checkpoint into an ONNX artifact, a layer at a time."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pythia_quant import architecture as checkpoint
from pythia_quant.architecture import Architecture
from pythia_quant.formats.job import Job, Written
from pythia_quant.formats.onnx import blocks, graph, products, rotary
from pythia_quant.formats.onnx.bundle import write_configs
from pythia_quant.formats.onnx.equalize import equalize
from pythia_quant.formats.onnx.external import ExternalWriter, model_path
from pythia_quant.formats.onnx.nodes import GELU_OFFSET
from pythia_quant.formats.onnx.products import Product
from pythia_quant.formats.onnx.settings import Choice, OnnxSettings
from pythia_quant.layerwise import Forward, read_layer

_ROWS_AT_ONCE = 4096

Stored = blocks.Blocks | Tensor
"""A weight as integers, or in fp32."""


@torch.no_grad()
def write(job: Job[OnnxSettings]) -> Written:
    """Write ``onnx/model.onnx`` (all fp32) or ``onnx/model_quantized.onnx``, its data beside it, and configurations.

    In memory are one layer in fp32, or one of the two large matrices as it is in the source and in codes.

    Returns:
        Logits of the probe from the weights as they are meant to be stored, computed without the files.

    Raises:
        QuantizationError: the block size does not divide a width.
        SourceError: a source tensor is missing or not finite.
    """
    source, settings, shape = job.source, job.settings, job.source.architecture
    rotary.rotary_tables(shape)  # refuses what the graph could not have, before anything is written
    path = model_path(job.folder, quantized=settings.quantizes())
    path.parent.mkdir(parents=True)
    forward = Forward(shape, job.probe)
    with ExternalWriter(path) as data:
        job.report("embeddings", 0, 1)
        table = _embeddings(data, source.read(checkpoint.EMBEDDING), settings.of_embeddings())
        forward.hidden = _rows(table, job.probe.flatten()).view(*job.probe.shape, -1)
        del table
        for index in range(shape.layers):
            job.report("layer", index, shape.layers)
            layer = read_layer(source, index)
            _layer(data, settings, shape, index, layer)
            forward.layer(layer)
            del layer  # or two are in memory
        gain, bias = (source.read(f"{checkpoint.FINAL_NORM}.{part}").float() for part in ("weight", "bias"))
        data.add(f"{products.FINAL_NORM}.weight", gain)
        data.add(f"{products.FINAL_NORM}.bias", bias)
        job.report("head", 0, 1)
        product = products.head(settings, shape)
        head = _quantize(source.read(checkpoint.HEAD), product.choice)
        _add_product(data, product, [head], dim=0)
        hidden = forward.finish(gain, bias)
        pieces = torch.arange(shape.vocabulary).split(_ROWS_AT_ONCE)
        logits = torch.cat([F.linear(hidden, _rows(head, rows)) for rows in pieces], dim=-1)
        mark = data.finish()
    path.write_bytes(graph.build(shape, settings, data.tensors, mark).SerializeToString())
    write_configs(job.folder, shape, path)
    return Written(data.tensor_bytes, logits)


def _layer(
    data: ExternalWriter, settings: OnnxSettings, shape: Architecture, index: int, layer: dict[str, Tensor]
) -> None:
    """Store a layer, and make it what a reader will get."""
    equalize(shape, layer)

    def stored(name: str, choice: Choice) -> Stored:
        weight = layer[f"{name}.weight"]
        return _in_order(_quantize(weight, choice, into=weight), name, shape)

    data.add(products.norm_gain(index), layer["input_layernorm.weight"])
    for product in products.inner(settings, shape, index):
        _add_product(data, product, [stored(name, product.choice) for name in product.members], dim=0)
        biases = [_in_order(layer[f"{name}.bias"], name, shape) for name in product.members]
        data.add(f"{product.name}.bias", torch.cat(cast(list[Tensor], biases)))
    for product in products.outer(settings, shape, index):
        _add_product(data, product, [stored(name, product.choice) for name in product.members], dim=1)
        if product.members[0] == "attention.dense":
            data.add(f"{product.name}.bias", layer["attention.dense.bias"])
        elif product.choice.in_channels:
            # The codes of activations stand for that much more than the activations were.
            data.add(f"{product.name}.shift", -GELU_OFFSET * layer["mlp.dense_4h_to_h.weight"].sum(1))


def _embeddings(data: ExternalWriter, table: Tensor, choice: Choice) -> Stored:
    """Store the embedding matrix, [vocabulary, width]."""
    stored = _quantize(table, choice)
    if isinstance(stored, Tensor):
        data.add(f"{products.EMBEDDINGS}.weight", stored)
    else:
        data.add(f"{products.EMBEDDINGS}.codes", stored.codes if choice.weights == "int8" else stored.stored())
        data.add(f"{products.EMBEDDINGS}.scales", stored.scales)
    return stored


def _quantize(weight: Tensor, choice: Choice, into: Tensor | None = None) -> Stored:
    """Return a weight, [out, in], as it is stored; fill `into` with what a reader will get."""
    if choice.weights == "fp32":
        return weight.float()
    size = choice.block_size if choice.in_blocks else weight.shape[1]
    return blocks.quantize(weight, size, choice.bits, into)


def _in_order(stored: Stored, name: str, shape: Architecture) -> Stored:
    """Return a linear layer's rows in the model's order."""
    if name != "attention.query_key_value":
        return stored
    if isinstance(stored, Tensor):
        return rotary.separate(stored, shape)
    return blocks.Blocks(stored.bits, rotary.separate(stored.codes, shape), rotary.separate(stored.scales, shape))


def _rows(stored: Stored, rows: Tensor) -> Tensor:
    return stored[rows] if isinstance(stored, Tensor) else stored.dequantize(rows)


def _add_product(data: ExternalWriter, product: Product, parts: list[Stored], dim: int) -> None:
    """Store the merged weight; parts follow each other along `dim`."""
    name, choice = product.name, product.choice
    if choice.weights == "fp32":
        data.add(f"{name}.weight", torch.cat(cast(list[Tensor], parts), dim).t())
        return
    quantized = cast(list[blocks.Blocks], parts)
    merged = blocks.Blocks(
        quantized[0].bits,
        torch.cat([part.codes for part in quantized], dim),
        torch.cat([part.scales for part in quantized], dim),
    )
    if choice.in_channels:
        data.add(f"{name}.codes", merged.codes.t())
        data.add(f"{name}.scales", merged.scales.flatten())
    else:
        data.add(f"{name}.codes", merged.stored().view(*merged.scales.shape, -1))
        data.add(f"{name}.scales", merged.scales)
