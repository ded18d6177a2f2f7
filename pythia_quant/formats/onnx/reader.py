"""Read an ONNX artifact back as an equivalent GPT-NeoX checkpoint in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pythia_quant.formats.onnx import nodes, rotary
from pythia_quant.formats.onnx.data_file import StoredModel, find_model
from pythia_quant.formats.onnx.graph_check import open_model
from pythia_quant.formats.onnx.nodes import Product
from pythia_quant.formats.onnx.token_tables import joined, pieces
from pythia_quant.formats.tensor_files import check_finite
from pythia_quant.model import architecture as checkpoint
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.weights import WeightReader
from pythia_quant.quantizers.blocks import Blocks, from_stored, zeros_from_stored
from pythia_quant.recipe.onnx_variant import Choice


def read(folder: Path) -> WeightReader:
    """Open an artifact; its tensors are dequantized, and have a checkpoint's names and shapes.

    The tensors are those that the graph computes with: the layers are equalized, see
    :func:`pythia_quant.model.equalize.equalize`.

    Raises:
        ArtifactError: a file is missing or truncated, or this program did not write it.
        SourceError: ``config.json`` is not that of a GPT-NeoX that we handle.
    """
    model, architecture = open_model(folder)
    return _Weights(architecture, model)


def streamed_bytes(folder: Path) -> int:
    """Return the bytes of weights that are read to decode a token: all tensors beside the graph but the embeddings.

    Raises:
        ArtifactError: a file is missing or truncated, or this program did not write it.
    """
    sizes = StoredModel(find_model(folder)).tensor_bytes()
    return sum(size for name, size in sizes.items() if not name.startswith(nodes.EMBEDDINGS))


class _Weights:
    """The tensors of a stored model; a linear layer's tensor is read from its place in a merged one."""

    def __init__(self, architecture: Architecture, model: StoredModel) -> None:
        self.architecture = architecture
        self._model, self._settings = model, model.settings

    def read(self, name: str) -> Tensor:
        """Return one tensor in fp32.

        Raises:
            ArtifactError: the model does not have the tensor.
        """
        match name.split("."):
            case ["gpt_neox", "layers", index, *rest]:
                return self._in_layer(int(index), ".".join(rest))
            case ["gpt_neox", "final_layer_norm", part]:
                return self._array(f"{nodes.FINAL_NORM}.{part}")
        head = name != checkpoint.EMBEDDING
        choice = self._settings.head_choice() if head else self._settings.embeddings_choice()
        table = pieces(self._settings, choice, self.architecture.vocabulary)
        if head:
            products = nodes.heads(self._settings, self.architecture)
            return joined(table, [self._weight(product, slice(None), slice(None)) for product in products])
        return joined(table, [self._embeddings(piece.choice, f"{nodes.EMBEDDINGS}{piece.suffix}") for piece in table])

    def _embeddings(self, choice: Choice, name: str) -> Tensor:
        if choice.weights == "fp32":
            return self._array(f"{name}.weight")
        codes, scales = self._array(f"{name}.codes"), self._array(f"{name}.scales")
        return (Blocks(8, codes, scales) if choice.weights == "int8" else from_stored(codes, scales, 4)).dequantize()

    def _in_layer(self, index: int, name: str) -> Tensor:
        if name.endswith("layernorm.weight"):
            return self._array(nodes.norm_gain(self.architecture, index, name.removesuffix(".weight")))
        linear, _, part = name.rpartition(".")
        if linear.endswith("layernorm"):
            return torch.zeros(self.architecture.width)
        inner = nodes.inner(self._settings, self.architecture, index)
        outer = nodes.outer(self._settings, self.architecture, index)
        product = next(product for product in (*inner, *outer) if linear in product.members)
        rows, columns = self._place(product, linear)
        if part == "bias":
            if linear == checkpoint.CONTRACT and self.architecture.parallel_residual:
                return torch.zeros(product.rows)  # the bias of attention.dense includes it
            stored = self._array(f"{product.name}.bias")[rows]
        else:
            stored = self._weight(product, rows, columns)
        return rotary.interleave(stored, self.architecture) if linear == checkpoint.MIXED else stored

    def _place(self, product: Product, linear: str) -> tuple[slice, slice]:
        """Return the rows and columns of a merged weight that belong to a linear layer."""
        everything, d = slice(None), self.architecture.width
        if len(product.members) == 1:
            return everything, everything
        match linear:
            case checkpoint.MIXED:
                return slice(3 * d), everything
            case checkpoint.EXPAND:
                return slice(3 * d, None), everything
            case checkpoint.DENSE:
                return everything, slice(d)
        return everything, slice(d, None)

    def _weight(self, product: Product, rows: slice, columns: slice) -> Tensor:
        """Return a part of a product's weight, fp32 [out, in]."""
        name, choice = product.name, product.choice
        if choice.weights == "fp32":
            return self._array(f"{name}.weight", columns, rows).t()
        if choice.in_blocks:
            return self._blocks(product, rows, columns)
        codes = self._array(f"{name}.codes", columns, rows).t().contiguous()
        return Blocks(choice.bits, codes, self._array(f"{name}.scales", rows)[:, None]).dequantize()

    def _blocks(self, product: Product, rows: slice, columns: slice) -> Tensor:
        name, choice = product.name, product.choice
        part = slice(*(bound and bound // choice.block_size for bound in (columns.start, columns.stop)))
        codes = self._array(f"{name}.codes", rows, part).flatten(1)
        scales = self._array(f"{name}.scales", rows, part)
        zeros = self._zeros(product, rows, part)
        return from_stored(codes, scales, choice.bits, zeros).dequantize()

    def _zeros(self, product: Product, rows: slice, blocks: slice) -> Tensor | None:
        """Return the zero points of some blocks, int8 [rows, blocks]; None if all are the middle code."""
        name, choice = f"{product.name}.zero_points", product.choice
        if name not in self._model:
            return None
        # Whole rows: a byte may hold the zero points of two members.
        return zeros_from_stored(self._array(name, rows), choice.bits, product.columns // choice.block_size)[:, blocks]

    def _array(self, name: str, *part: slice) -> Tensor:
        tensor = torch.from_numpy(np.array(self._model.array(name)[part]))
        check_finite(name, tensor, self._model.path)
        return tensor
