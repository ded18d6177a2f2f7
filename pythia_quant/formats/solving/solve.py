"""Solve all layers in order, each for the inputs that the quantized layers before it give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pythia_quant.core.array_file import load_array
from pythia_quant.core.errors import QuantizationError
from pythia_quant.core.precision import exact_products
from pythia_quant.formats.format import Costs
from pythia_quant.formats.job import SHARD_BYTES, Job
from pythia_quant.formats.solving.solver import Method, SolvedLayer, solve_layer
from pythia_quant.formats.solving.work_folder import WorkFolder
from pythia_quant.model.architecture import Architecture, layer_name
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import Forward, layer_forward, read_layer
from pythia_quant.quantizers import calibration
from pythia_quant.quantizers.fisher import memory_bytes, second_moments

_PROBE = "probe.npy"


@dataclass(frozen=True)
class Tables:
    """The embedding matrix, [vocabulary, width], as the artifact stores it and as the source has it."""

    stored: Tensor
    source: Tensor


def check_calibration(job: Job[Any]) -> None:
    """Refuse calibration text with fewer tokens than a solved matrix has inputs: their Hessian would be singular.

    Raises:
        QuantizationError: there are fewer; the message has both numbers.
    """
    architecture, tokens = job.source.architecture, job.calibration.numel()
    needed = architecture.most_inputs
    if tokens < needed:
        raise QuantizationError(
            f"GPTQ was given {tokens:,} calibration tokens; a layer with {needed:,} inputs needs at least as many",
            hint="raise calibration.windows in the recipe, or give a longer text; 128 windows are usual",
        )


def costs(architecture: Architecture, tokens: int, *, fisher: bool = False) -> Costs:
    """Estimate the memory and the disk space that solving takes, bytes, without libraries and without the artifact.

    While a layer is solved, memory holds the layer in fp32 five times (the source's, the solved one, and three times in
    the solver), four matrices of the size of the larger Hessian, states of the windows, and the inputs of those that
    are held out. At the end it holds a shard and the head. The disk holds the windows before and after each update of a
    layer, for two models, and the solved layers. In the 1.4b shape, 3.2 GB of memory were measured; this estimate is
    3.4 GB, and 0.25 GB for inputs that are held out, which that version did not do.

    Args:
        architecture: the shape of the model.
        tokens: the number of calibration tokens.
        fisher: whether codes are moved by what errors cost the whole model.
    """
    inputs = architecture.most_inputs
    layer = 4 * architecture.width**2 + 2 * architecture.width * architecture.mlp_width
    cached_inputs = min(calibration.KEPT_BYTES, 2 * tokens * inputs)
    held_out = min(calibration.HELD_BYTES, tokens * (inputs + architecture.width))  # fp32 of a quarter of the tokens
    solving = 4 * (5 * layer + 4 * inputs**2 + 2048 * 4 * inputs) + cached_inputs + held_out
    head = architecture.vocabulary * architecture.width
    assembling = min(SHARD_BYTES, architecture.layers * layer + 4 * head) + 8 * head
    if fisher:
        moments, beside = memory_bytes(architecture)
        solving = moments + max(solving, beside)
    states = (1 + len(architecture.updates)) * 2 * 2 * tokens * architecture.width
    return Costs(int(max(solving, assembling)), int(states + architecture.layers * layer))


def solve_layers(
    job: Job[Any],
    method: Method,
    read_tables: Callable[[], Tables],
    work: WorkFolder,
    packed: Callable[[SolvedLayer], dict[str, Tensor]],
) -> None:
    """Solve each layer that is not solved yet, with the windows as the quantized layers before it change them.

    Args:
        job: the conversion.
        method: how to solve a layer.
        read_tables: returns the embedding matrices that windows begin with; not called where work goes on.
        work: where solved layers are kept, and the windows before the next one.
        packed: returns a layer's tensors as the artifact stores them, by their names within the layer.

    Raises:
        QuantizationError: activations are not finite, no damping helps, or a value does not fit its dtype.
        SourceError: a tensor of the source is missing or damaged.
    """
    architecture = job.source.architecture
    if work.solved_layers is None:
        _begin(job, method, read_tables(), work)
    outputs = None
    if method.fisher and (work.solved_layers or 0) < architecture.layers:
        job.progress.step("gradients of the whole model", 0, 1)
        outputs = second_moments(job.source, job.calibration)
    what = "layer"
    for index in range(work.solved_layers or 0, architecture.layers):
        job.progress.step(what, index, architecture.layers)
        layer = read_layer(job.source, index)
        equalize(architecture, layer)
        following = work.make_before(index + 1)
        before = work.before(index)
        costs_together = outputs[index] if outputs else None
        solved = solve_layer(method, architecture, before, following, layer, layer_name(index), costs_together)
        with exact_products():
            probe = layer_forward(architecture, solved.weights(), load_probe(job, before))
        np.save(following / _PROBE, probe.numpy())
        # Copies, because safetensors refuses tensors that share memory.
        copies = {
            f"{layer_name(index)}.{name}": tensor.clone(memory_format=torch.contiguous_format)
            for name, tensor in packed(solved).items()
        }
        work.save_layer(index, copies, solved.notes)
        work.reach(index + 1)
        what = f"layer (the last one's error {_share_of_rounding(solved.notes):.2f} of rounding's)"


def _begin(job: Job[Any], method: Method, tables: Tables, work: WorkFolder) -> None:
    """Write the windows and the probe before the first layer. The tables are freed before a layer is read."""
    before = work.make_before(0)
    calibration.begin(before, job.calibration, tables.stored, tables.source if method.corrects_earlier else None)
    forward = Forward(job.source.architecture, job.probe)
    forward.embed(tables.stored)
    np.save(before / _PROBE, forward.hidden.numpy())
    work.reach(0)


def load_probe(job: Job[Any], before: Path) -> Tensor:
    """Return the probe tokens' hidden states before a layer, fp32 [windows, tokens, width]."""
    shape = (*job.probe.shape, job.source.architecture.width)
    return torch.from_numpy(load_array(before / _PROBE, np.float32, shape, QuantizationError, calibration.AGAIN))


def _share_of_rounding(notes: dict[str, dict[str, Any]]) -> float:
    """Return the mean over a layer's linear layers of the error relative to that of rounding to nearest."""
    ratios = [note["relative_error"] / (note["relative_error_rounding"] or 1.0) for note in notes.values()]
    return float(sum(ratios) / len(ratios))
