"""Checkpoints with outliers, made from a checkpoint without: ``python benchmarks/hardness models --help``.

``gains`` and ``values`` compute the same function as the checkpoint that they are made from, ``residual`` about the
same, ``divided`` and ``damaged`` another. Every model is measured against its own weights in fp32, so this changes no
measurement: a model is hard because of where its numbers lie, not because of what it says.

All factors but 20 are powers of two, which fp16 multiplies exactly unless a result is below 6e-5.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pythia_quant.core.errors import SourceError
from pythia_quant.model.architecture import (
    CONTRACT,
    DENSE,
    EMBEDDING,
    FINAL_NORM,
    MIXED,
    NORM_OF,
    Architecture,
    layer_name,
)
from pythia_quant.model.forward import update_forward
from pythia_quant.model.source import Source, companions, open_source
from pythia_quant.texts.builtin import training_text
from pythia_quant.texts.windows import encode, windows

Tensors = dict[str, Tensor]
"""All tensors of a checkpoint by their names, fp32."""

GAIN, VALUE, RESIDUAL, DAMAGE = 32.0, 32.0, 8.0, 20.0
"""The factors of the chosen channels."""
CHANNELS_OF_LAYER, CHANNELS_OF_RESIDUAL = 1 / 16, 1 / 32
"""The share of the channels that are chosen: anew for every norm and every layer; once for the residual stream."""
FITTED_TOKENS = (8, 256)
"""The windows and the tokens in each, of the built-in training text, that the norms of ``residual`` are fitted on."""


def write_model(base: str, kind: str, folder: Path, seed: int = 0) -> None:
    """Write one hard checkpoint into a folder, in fp16, unless it is there.

    Args:
        base: the checkpoint that it is made from, as :func:`~pythia_quant.model.source.open_source` takes it.
        kind: a key of :data:`KINDS`.
        folder: where it will be; complete or absent.
        seed: decides which channels are chosen.

    Raises:
        SourceError: the checkpoint cannot be read, or fp16 cannot hold a value.
    """
    if folder.exists():
        return
    source = open_source(base)
    tensors = {name: source.weights.read(name).float() for name in source.architecture.tensor_shapes()}
    KINDS[kind](source, tensors, torch.Generator().manual_seed(seed))
    save(source, tensors, folder)


def save(source: Source, tensors: Tensors, folder: Path) -> None:
    """Write tensors in fp16 beside the tokenizer of the source that they were made from.

    Raises:
        SourceError: fp16 cannot hold a value.
    """
    halves = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    for name, tensor in halves.items():
        if not tensor.isfinite().all():
            raise SourceError(f"{name} holds {float(tensors[name].abs().max()):.4g}, which fp16 cannot")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in ("config.json", *companions(source.folder)):
        shutil.copy(source.folder / name, partial)
    save_file(halves, partial / "model.safetensors", metadata={"format": "pt"})
    partial.rename(folder)


def keep(source: Source, tensors: Tensors, draw: torch.Generator) -> None:
    """Change nothing."""
    del source, tensors, draw


def scale_gains(source: Source, tensors: Tensors, draw: torch.Generator) -> None:
    """Multiply channels of both norms of every layer by 32, and divide the columns that read them by 32."""
    shape = source.architecture
    for index in range(shape.layers):
        layer = layer_name(index)
        for linear, norm in NORM_OF.items():
            chosen = choose(shape.width, CHANNELS_OF_LAYER, draw)
            tensors[f"{layer}.{norm}.weight"][chosen] *= GAIN
            tensors[f"{layer}.{norm}.bias"][chosen] *= GAIN
            tensors[f"{layer}.{linear}.weight"][:, chosen] /= GAIN


def scale_values(source: Source, tensors: Tensors, draw: torch.Generator) -> None:
    """Multiply value channels of every layer by 32, and divide the columns of dense that read them by 32."""
    shape = source.architecture
    for index in range(shape.layers):
        layer = layer_name(index)
        chosen = choose(shape.width, CHANNELS_OF_LAYER, draw)
        heads, places = chosen // shape.head_size, chosen % shape.head_size
        weight = tensors[f"{layer}.{MIXED}.weight"].view(shape.heads, 3, shape.head_size, shape.width)
        bias = tensors[f"{layer}.{MIXED}.bias"].view(shape.heads, 3, shape.head_size)
        weight[heads, 2, places] *= VALUE
        bias[heads, 2, places] *= VALUE
        tensors[f"{layer}.{DENSE}.weight"][:, chosen] /= VALUE


def damage(source: Source, tensors: Tensors, draw: torch.Generator) -> None:
    """Multiply channels of the residual stream by 20, and leave the norms that read them: another model."""
    scale_residual(source.architecture, tensors, choose(source.architecture.width, CHANNELS_OF_RESIDUAL, draw), DAMAGE)


def divide(source: Source, tensors: Tensors, draw: torch.Generator) -> None:
    """Multiply channels of the residual stream by 8, and divide the gains that read them by 8.

    The norms' deviations are larger than before, so all their results are smaller: another model.
    """
    shape = source.architecture
    chosen = choose(shape.width, CHANNELS_OF_RESIDUAL, draw)
    scale_residual(shape, tensors, chosen, RESIDUAL)
    norms = [f"{layer_name(index)}.{norm}" for index in range(shape.layers) for norm in NORM_OF.values()]
    for norm in (*norms, FINAL_NORM):
        tensors[f"{norm}.weight"][chosen] /= RESIDUAL


@torch.no_grad()
def compensate(source: Source, tensors: Tensors, draw: torch.Generator) -> None:
    """Multiply channels of the residual stream by 8, and fit the norms that read it.

    A norm divides by the deviation over all channels, which the large ones now make up, differently for each token. No
    gain undoes that, so gains and biases are fitted by least squares, channel by channel, to what the norm gave before,
    in the order in which the model runs.
    """
    shape = source.architecture
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    scale_residual(shape, tensors, choose(shape.width, CHANNELS_OF_RESIDUAL, draw), RESIDUAL)
    tokens = encode(source.tokenizer, training_text()[: 2**18])
    ids = torch.from_numpy(windows(tokens, FITTED_TOKENS[1])[: FITTED_TOKENS[0]])
    old, new = F.embedding(ids, before[EMBEDDING]), F.embedding(ids, tensors[EMBEDDING])
    for index in range(shape.layers):
        was, now = layer_of(before, index), layer_of(tensors, index)
        for update in shape.updates:
            for linear in update.inner:
                fit_norm(shape, was, now, NORM_OF[linear], old, new)
            old, new = (update_forward(shape, each, update, hidden) for each, hidden in ((was, old), (now, new)))
    fit_norm(shape, before, tensors, FINAL_NORM, old, new)


def layer_of(tensors: Tensors, index: int) -> Tensors:
    """Return the tensors of a layer by their names within it; they are not copied."""
    prefix = f"{layer_name(index)}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def scale_residual(shape: Architecture, tensors: Tensors, chosen: Tensor, factor: float) -> None:
    """Multiply channels of the residual stream: columns of the embedding, and the rows and biases that add to them."""
    tensors[EMBEDDING][:, chosen] *= factor
    for index in range(shape.layers):
        for linear in (DENSE, CONTRACT):
            tensors[f"{layer_name(index)}.{linear}.weight"][chosen] *= factor
            tensors[f"{layer_name(index)}.{linear}.bias"][chosen] *= factor


def fit_norm(shape: Architecture, was: Tensors, now: Tensors, norm: str, old: Tensor, new: Tensor) -> None:
    """Fit the gain and the bias of a norm, in place, so that on `new` it gives what it gave on `old`.

    Args:
        shape: the model's.
        was: the tensors before, by names of which `norm` is the beginning.
        now: the tensors that are changed.
        norm: the norm's name in both.
        old: hidden states before, fp32 [windows, tokens, width].
        new: hidden states of the same tokens now, in the same shape.
    """
    wanted, plain = (F.layer_norm(each, (shape.width,), eps=shape.norm_epsilon).flatten(0, 1) for each in (old, new))
    wanted = wanted * was[f"{norm}.weight"] + was[f"{norm}.bias"]
    centred = plain - plain.mean(0)
    slope = (centred * wanted).sum(0) / centred.square().sum(0)
    now[f"{norm}.weight"].copy_(slope)
    now[f"{norm}.bias"].copy_(wanted.mean(0) - slope * plain.mean(0))


def choose(width: int, share: float, draw: torch.Generator) -> Tensor:
    """Draw a share of the channels, at least two; int64 [channels], in their order."""
    return torch.randperm(width, generator=draw)[: max(2, round(width * share))].sort().values


KINDS: dict[str, Callable[[Source, Tensors, torch.Generator], None]] = {
    "clean": keep,
    "gains": scale_gains,
    "values": scale_values,
    "residual": compensate,
    "divided": divide,
    "damaged": damage,
}
"""How the tensors of a model of each kind are changed, in place."""
SAME_FUNCTION = ("gains", "values")
"""The kinds that compute what the checkpoint computes that they are made from."""
