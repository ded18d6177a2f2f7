"""Convert a checkpoint into an ONNX artifact, a layer at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.job import CodesReader, Job, Written
from pythia_quant.formats.onnx import graph, nodes, rotary, token_tables
from pythia_quant.formats.onnx.adapt import LIMITS, NEGLIGIBLE, Adapted, Sample, adapts
from pythia_quant.formats.onnx.client_configs import write_configs
from pythia_quant.formats.onnx.data_file import ExternalWriter, model_path
from pythia_quant.formats.onnx.head_inputs import head_tokens
from pythia_quant.formats.onnx.nodes import NORMS, OFFSETS, Product
from pythia_quant.formats.onnx.token_tables import Stored
from pythia_quant.model import architecture as checkpoint
from pythia_quant.model.architecture import CONTRACT, LINEARS, MIXED, Architecture, layer_name
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import Forward, layer_tensor_names, read_layer
from pythia_quant.model.weights import WeightReader
from pythia_quant.quantizers import blocks, token_rows
from pythia_quant.recipe.onnx_variant import Choice, OnnxSettings

_ROWS_AT_ONCE = 4096

Layer = dict[str, Tensor]
"""The fp32 tensors of one layer, by their names within the layer."""
Weigh = Callable[[str, Choice], Stored]
"""A function that returns a linear layer's weight, [out, in], as it will be stored.

It also replaces the weight in the layer by the one that a reader will get. The rounded weight takes the memory of the
source's, so that no third one of this size is needed."""


@torch.no_grad()
def write(job: Job[OnnxSettings]) -> Written:
    """Write ``onnx/model.onnx`` (all fp32) or ``onnx/model_quantized.onnx``, its data beside it, and configurations.

    At a time, memory holds one layer in fp32, or the embeddings or the head as in the source and as codes. Layers are
    equalized and rounded, or taken from `job.codes` with unchanged integers, scales and zero points.

    Returns:
        The logits of the intended weights on the probe, computed without the files.

    Raises:
        QuantizationError: the block size does not divide a width.
        SourceError: a tensor of the source is missing or not finite.
        ArtifactError: the artifact of the codes is damaged, or its layers are not equalized.
    """
    path = model_path(job.folder, quantized=job.settings.quantizes())
    path.parent.mkdir(parents=True)
    for limit in LIMITS if adapts(job.settings, job.source.architecture) else LIMITS[:1]:
        assembly = _Assembly(job, path, limit)
        logits = assembly.write()
        if assembly.is_good:
            break
    write_configs(job.folder, job.source.architecture, path, job.generation)
    return Written(logits, assembly.notes())


class _Assembly:
    """Writes the model and its data, and computes the probe and a sample with what it writes.

    Args:
        job: the conversion.
        path: the model's.
        limit: what a tensor may lose before it is adapted, one of :data:`LIMITS`.
    """

    def __init__(self, job: Job[OnnxSettings], path: Path, limit: float) -> None:
        self._job, self._path = job, path
        self._shape = job.source.architecture
        self._adapted = Adapted(job.settings, self._shape, limit)
        looks = adapts(job.settings, self._shape)
        self._sample = Sample(self._shape, compares=limit < LIMITS[0]) if looks else None
        self._kl: tuple[float, float] | None = None
        solves = job.settings.head_choice().weights == "int4"
        self._head_inputs = Forward(self._shape, head_tokens(self._shape, job.calibration)) if solves else None

    @property
    def is_good(self) -> bool:
        """Whether nothing need be adapted further: there are no outliers, or the sample diverges little enough."""
        if self._kl is None:
            return not self._adapted.outliers
        return self._kl[0] <= max(self._kl[1], NEGLIGIBLE)

    def notes(self) -> dict[str, object]:
        """Return what the manifest says of tensors that were adapted."""
        if self._kl is None or not self._adapted.notes:
            return {}
        overrides = self._adapted.settings.tensors
        tensors = {
            name: overrides[name].model_dump(mode="json", exclude_none=True) | note
            for name, note in self._adapted.notes.items()
        }
        as_run, in_bf16 = (float(f"{kl:.3g}") for kl in self._kl)
        return {"adapted": {"sample_kl": as_run, "sample_kl_of_bf16": in_bf16, "tensors": tensors}}

    def write(self) -> Tensor:
        """Write all tensors and the graph; return the logits of the probe."""
        job, source, shape = self._job, self._job.source, self._shape
        forward = Forward(shape, job.probe)
        with ExternalWriter(self._path) as data:
            job.progress.step("embeddings", 0, 1)
            forward.hidden = self._embeddings(data)
            for index in range(shape.layers):
                job.progress.step("layer", index, shape.layers)
                layer, weigh = _rounded(source, index) if job.codes is None else _solved(job.codes, index)
                if self._sample:
                    self._sample.before(layer)
                    self._adapted.layer(index, layer, self._sample.inputs)
                _layer(data, self._adapted.settings, shape, index, layer, weigh)
                forward.layer(layer)
                if self._head_inputs:
                    self._head_inputs.layer(layer)
                if self._sample:
                    self._sample.after(layer, self._adapted.settings, index)
                del layer, weigh  # or two are in memory
            job.progress.step("head", 0, 1)
            logits = self._head(data, forward)
            mark = data.finish()
        self._path.write_bytes(graph.build(shape, self._adapted.settings, data.tensors, mark).SerializeToString())
        return logits

    def _embeddings(self, data: ExternalWriter) -> Tensor:
        """Store the embeddings; return those of the probe."""
        source, probe = self._job.source, self._job.probe
        table = source.read(checkpoint.EMBEDDING)
        if self._sample:
            sample = table[self._sample.ids.flatten()]
            self._adapted.embeddings(sample)
        choice = self._adapted.settings.embeddings_choice()
        hessian = token_rows.effect_of_embeddings(read_layer(source, 0)) if choice.weights == "int4" else None
        stored = token_tables.quantize(table, self._pieces(choice), hessian, "embeddings")
        for piece, part in zip(stored.pieces, stored.stored, strict=True):
            name = f"{nodes.EMBEDDINGS}{piece.suffix}"
            if isinstance(part, Tensor):
                data.add(f"{name}.weight", part)
            else:
                data.add(f"{name}.codes", part.codes if piece.choice.weights == "int8" else part.stored())
                data.add(f"{name}.scales", part.scales)
        if self._sample:
            self._sample.begin(sample, stored.rows(self._sample.ids.flatten()))
        if ahead := self._head_inputs:
            ahead.hidden = stored.rows(ahead.ids.flatten()).view(*ahead.ids.shape, -1)
        return stored.rows(probe.flatten()).view(*probe.shape, -1)

    def _head(self, data: ExternalWriter, forward: Forward) -> Tensor:
        """Store the final norm and the head; return the logits of the probe."""
        source = self._job.source
        gain, bias = (source.read(f"{checkpoint.FINAL_NORM}.{part}").float() for part in ("weight", "bias"))
        data.add(f"{nodes.FINAL_NORM}.weight", gain)
        data.add(f"{nodes.FINAL_NORM}.bias", bias)
        weight = source.read(checkpoint.HEAD)
        if self._sample:
            self._adapted.head(weight[:: -(-len(weight) // _ROWS_AT_ONCE)], self._sample.normed(gain, bias))
        choice = self._adapted.settings.head_choice()
        inputs = self._head_inputs.finish(gain, bias).flatten(0, 1) if self._head_inputs else None
        hessian = None if inputs is None else inputs.T @ inputs
        head = token_tables.quantize(weight, self._pieces(choice), hessian, "head")
        for product, part in zip(nodes.heads(self._adapted.settings, self._shape), head.stored, strict=True):
            _add_product(data, product, [part], dim=0)
        ids = torch.arange(self._shape.vocabulary).split(_ROWS_AT_ONCE)
        if self._sample and self._sample.compares:
            rows = ((weight[some], head.rows(some)) for some in ids)
            self._kl = self._sample.divergences(gain, bias, choice, rows)
        hidden = forward.finish(gain, bias)
        return torch.cat([F.linear(hidden, head.rows(some)) for some in ids], dim=-1)

    def _pieces(self, choice: Choice) -> list[token_tables.Piece]:
        return token_tables.pieces(self._adapted.settings, choice, self._shape.vocabulary)


def _rounded(source: WeightReader, index: int) -> tuple[Layer, Weigh]:
    """Read and equalize a layer of the source; return it with a function that rounds its weights."""
    layer = read_layer(source, index)
    equalize(source.architecture, layer)

    def weigh(name: str, choice: Choice) -> Stored:
        weight = layer[f"{name}.weight"]
        return token_tables.rounded(weight, choice, into=weight)

    return layer, weigh


def _solved(codes: CodesReader, index: int) -> tuple[Layer, Weigh]:
    """Read a layer of integers from another artifact; return it with a function that returns its weights.

    Raises:
        ArtifactError: the layer was not equalized.
    """
    prefix, weights = layer_name(index), {f"{name}.weight" for name in LINEARS}
    small = (name for name in layer_tensor_names(codes.architecture) if name not in weights)
    layer = {name: codes.read(f"{prefix}.{name}").float() for name in small}
    _require_equalized(codes.architecture, layer, prefix)

    def weigh(name: str, _choice: Choice) -> Stored:
        stored = blocks.from_quantized(codes.quantized(f"{prefix}.{name}.weight"))
        layer[f"{name}.weight"] = stored.dequantize()
        return stored

    return layer, weigh


def _require_equalized(shape: Architecture, layer: Layer, name: str) -> None:
    """Refuse a layer that was not equalized, because the graph has no biases of normalizations.

    With a parallel residual, it also has one gain for both normalizations, and one bias for both outputs.
    """
    fits = not any(layer[f"{norm}.bias"].any() for norm in NORMS)
    if shape.parallel_residual:
        gains = (layer[f"{norm}.weight"] for norm in NORMS)
        fits = fits and torch.equal(*gains) and not layer[f"{CONTRACT}.bias"].any()
    if not fits:
        raise ArtifactError(
            "the layer was not equalized before it was quantized, so its integers are of no use here",
            where=name,
            hint="another version of pythia-quant quantized it; convert that variant with --overwrite",
        )


def _layer(
    data: ExternalWriter, settings: OnnxSettings, shape: Architecture, index: int, layer: Layer, weigh: Weigh
) -> None:
    """Store a layer. `weigh` changes `layer`: at the end, its tensors are those that a reader will get."""

    def stored(name: str, choice: Choice) -> Stored:
        return _in_order(weigh(name, choice), name, shape)

    for name, norm in {nodes.norm_gain(shape, index, norm): norm for norm in NORMS}.items():
        data.add(name, layer[f"{norm}.weight"])
    for product in nodes.inner(settings, shape, index):
        _add_product(data, product, [stored(name, product.choice) for name in product.members], dim=0)
        biases = [_in_order(layer[f"{name}.bias"], name, shape) for name in product.members]
        data.add(f"{product.name}.bias", torch.cat(cast(list[Tensor], biases)))
    for product in nodes.outer(settings, shape, index):
        _add_product(data, product, [stored(name, product.choice) for name in product.members], dim=1)
        if product.bias:
            data.add(f"{product.name}.bias", layer[f"{product.members[0]}.bias"])
        if product.members == (CONTRACT,) and product.choice.in_channels and (offset := OFFSETS[shape.activation]):
            # The codes stand for the activations plus the offset, whose product is subtracted here. It is that of the
            # stored weight, which `weigh` has put into the layer a few lines above.
            data.add(f"{product.name}.shift", -offset * layer[f"{CONTRACT}.weight"].sum(1))


def _in_order(stored: Stored, name: str, shape: Architecture) -> Stored:
    """Return a linear layer with its rows in the order of the ONNX model."""
    if name != MIXED:
        return stored
    if isinstance(stored, Tensor):
        return rotary.separate(stored, shape)
    return stored.arranged(lambda rows: rotary.separate(rows, shape))


def _add_product(data: ExternalWriter, product: Product, parts: list[Stored], dim: int) -> None:
    """Store a product's weight, whose parts follow each other along `dim`."""
    name, choice = product.name, product.choice
    if choice.weights == "fp32":
        data.add(f"{name}.weight", torch.cat(cast(list[Tensor], parts), dim).t())
        return
    merged = blocks.merge(cast(list[blocks.Blocks], parts), dim)
    if choice.in_channels:
        data.add(f"{name}.codes", merged.codes.t())
        data.add(f"{name}.scales", merged.scales.flatten())
    else:
        data.add(f"{name}.codes", merged.stored().view(*merged.scales.shape, -1))
        data.add(f"{name}.scales", merged.scales)
        if (zero_points := merged.stored_zeros()) is not None:
            data.add(f"{name}.zero_points", zero_points)
