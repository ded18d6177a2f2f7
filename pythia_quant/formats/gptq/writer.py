"""Write a GPTQ artifact layer by layer. A layer is solved for the inputs that the quantized layers before it give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pythia_quant.core.array_file import load_array
from pythia_quant.core.errors import QuantizationError
from pythia_quant.core.precision import exact_products
from pythia_quant.formats.format import Costs
from pythia_quant.formats.gptq.checkpoint import WorkFolder
from pythia_quant.formats.gptq.packing import pack
from pythia_quant.formats.gptq.reader import QUANTIZE_CONFIG, auto_gptq_fields
from pythia_quant.formats.gptq.solver import SolvedLayer, solve_head, solve_layer
from pythia_quant.formats.job import SHARD_BYTES, Job, ShardWriter, Written, to_dtype
from pythia_quant.model.architecture import (
    CONTRACT,
    DENSE,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LINEARS,
    Architecture,
    layer_name,
)
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import Forward, layer_forward, read_layer
from pythia_quant.quantizers import calibration
from pythia_quant.quantizers.calibration import Calibration
from pythia_quant.recipe.variants import GptqSettings

_PROBE = "probe.npy"


@torch.no_grad()
def write(job: Job[GptqSettings]) -> Written:
    """Quantize the linear layers, and the head if the settings say so, for the calibration windows. The rest is fp16.

    Solved layers are written to ``job.work``. If an interrupted conversion has left some there, they are not solved
    again.

    Returns:
        The logits of the intended weights on the probe, and the notes for the manifest.

    Raises:
        QuantizationError: there is too little calibration text, activations are not finite, or a value does not fit
            fp16.
        SourceError: a tensor of the source is missing or damaged.
    """
    check_calibration(job)
    check_head(job)
    folder = job.work or job.folder / ".work"
    work = WorkFolder(folder)
    _solve(job, work)
    written = _assemble(job, work)
    if job.work is None:
        shutil.rmtree(folder)
    return written


def check_calibration(job: Job[GptqSettings]) -> None:
    """Refuse calibration text with fewer tokens than a solved matrix has inputs: their Hessian would be singular.

    Raises:
        QuantizationError: there are fewer; the message has both numbers.
    """
    architecture, tokens = job.source.architecture, job.calibration.numel()
    needed = _most_inputs(architecture)
    if tokens < needed:
        raise QuantizationError(
            f"GPTQ was given {tokens:,} calibration tokens; a layer with {needed:,} inputs needs at least as many",
            hint="raise calibration.windows in the recipe, or give a longer text; 128 windows are usual",
        )


def check_head(job: Job[GptqSettings]) -> None:
    """Refuse to quantize a head whose zero points do not fill whole words of 32 bits.

    Raises:
        QuantizationError: they do not; the message has the size of the vocabulary.
    """
    vocabulary = job.source.architecture.vocabulary
    if job.settings.head == "quantized" and vocabulary * job.settings.bits % 32:
        raise QuantizationError(
            f"the GPTQ format packs rows of {vocabulary:,} zero points of {job.settings.bits} bits into words of 32",
            where="embed_out",
            hint="say head: fp16, or choose other bits",
        )


def costs(architecture: Architecture, tokens: int) -> Costs:
    """Estimate the memory and the disk space that solving takes, bytes, without libraries and without the artifact.

    While a layer is solved, memory holds the layer in fp32 five times (the source's, the solved one, and three times in
    the solver), four matrices of the size of the larger Hessian, and states of the windows. At the end it holds a shard
    and the head. The disk holds the windows before and after each update of a layer, for two models, and the solved
    layers. In the 1.4b shape, 3.2 GB of memory were measured; this estimate is 3.4 GB.

    Args:
        architecture: the shape of the model.
        tokens: the number of calibration tokens.
    """
    inputs = _most_inputs(architecture)
    layer = 4 * architecture.width**2 + 2 * architecture.width * architecture.mlp_width
    cached_inputs = min(calibration.KEPT_BYTES, 2 * tokens * inputs)
    solving = 4 * (5 * layer + 4 * inputs**2 + 2048 * 4 * inputs) + cached_inputs
    head = architecture.vocabulary * architecture.width
    assembling = min(SHARD_BYTES, architecture.layers * layer + 4 * head) + 8 * head
    states = (1 + len(architecture.updates)) * 2 * 2 * tokens * architecture.width
    return Costs(int(max(solving, assembling)), int(states + architecture.layers * layer))


def _most_inputs(architecture: Architecture) -> int:
    """Return the inputs of the widest matrix that is solved: that of linear layers whose results are added at once."""
    size = {DENSE: architecture.width, CONTRACT: architecture.mlp_width}
    return max(sum(size[name] for name in update.outer) for update in architecture.updates)


def _solve(job: Job[GptqSettings], work: WorkFolder) -> None:
    """Solve each layer that is not solved yet, with the windows as the quantized layers before it change them."""
    architecture = job.source.architecture
    if work.solved_layers is None:
        before = work.make_before(0)
        table = to_dtype(EMBEDDING, job.source.read(EMBEDDING), torch.float16)
        calibration.begin(before, job.calibration, table, original=job.settings.correction == "full")
        forward = Forward(architecture, job.probe)
        forward.embed(table)
        np.save(before / _PROBE, forward.hidden.numpy())
        work.reach(0)
    what = "layer"
    for index in range(work.solved_layers or 0, architecture.layers):
        job.progress.step(what, index, architecture.layers)
        layer = read_layer(job.source, index)
        equalize(architecture, layer)
        following = work.make_before(index + 1)
        before = work.before(index)
        solved = solve_layer(job.settings, architecture, before, following, layer, layer_name(index))
        with exact_products():
            probe = layer_forward(architecture, solved.weights(), _load_probe(job, before))
        np.save(following / _PROBE, probe.numpy())
        work.save_layer(index, _packed_tensors(solved, layer_name(index)), solved.notes)
        work.reach(index + 1)
        what = f"layer (the last one's error {_share_of_rounding(solved.notes):.2f} of rounding's)"


def _load_probe(job: Job[GptqSettings], before: Path) -> Tensor:
    """Return the probe tokens' hidden states before a layer, fp32 [windows, tokens, width]."""
    shape = (*job.probe.shape, job.source.architecture.width)
    return torch.from_numpy(load_array(before / _PROBE, np.float32, shape, QuantizationError, calibration.AGAIN))


def _share_of_rounding(notes: dict[str, dict[str, Any]]) -> float:
    """Return the mean over a layer's linear layers of the error relative to that of rounding to nearest."""
    ratios = [note["relative_error"] / (note["relative_error_rounding"] or 1.0) for note in notes.values()]
    return float(sum(ratios) / len(ratios))


def _packed_tensors(solved: SolvedLayer, prefix: str) -> dict[str, Tensor]:
    """Return a layer's tensors by their names in the artifact. They are copies: safetensors refuses shared memory."""
    tensors = {f"{prefix}.{name}": tensor for name, tensor in solved.floats.items()}
    for name, quantized in solved.integers.items():
        tensors |= {f"{prefix}.{name}.{part}": tensor for part, tensor in pack(quantized).items()}
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _assemble(job: Job[GptqSettings], work: WorkFolder) -> Written:
    """Write the artifact: the solved layers, the embeddings, the final norm and the head, which may be solved here."""
    source, architecture = job.source, job.source.architecture
    writer = ShardWriter(job.folder)

    def write_fp16(name: str) -> Tensor:
        tensor = to_dtype(name, source.read(name), torch.float16)
        writer.add(name, tensor)
        return tensor.float()

    write_fp16(EMBEDDING)
    linears: dict[str, object] = {}
    for index in range(architecture.layers):
        for name, tensor in work.tensors(index):
            writer.add(name, tensor)
        linears |= {f"{layer_name(index)}.{name}": note for name, note in work.notes(index).items()}
    before = work.before(architecture.layers)
    forward = Forward(architecture, job.probe)
    forward.hidden = _load_probe(job, before)
    norm = {f"final_layer_norm.{part}": write_fp16(f"{FINAL_NORM}.{part}") for part in ("weight", "bias")}
    hidden = forward.finish(*norm.values())
    if job.settings.head == "fp16":
        head = write_fp16(HEAD)
    else:
        job.progress.step("head", 0, 1)
        original = {
            f"final_layer_norm.{part}": source.read(f"{FINAL_NORM}.{part}").float() for part in ("weight", "bias")
        }
        windows = Calibration(architecture, before, before)
        quantized, linears["embed_out"] = solve_head(job.settings, windows, source.read(HEAD).float(), original, norm)
        for part, tensor in pack(quantized).items():
            writer.add(f"{HEAD.removesuffix('.weight')}.{part}", tensor)
        head = quantized.dequantize()
    writer.close()
    _write_configs(job)
    notes: dict[str, object] = {"calibration_tokens": job.calibration.numel(), "linears": linears}
    return Written(hidden @ head.T, notes)


def _write_configs(job: Job[GptqSettings]) -> None:
    settings = job.settings
    fields: dict[str, object] = {
        "bits": settings.bits,
        "group_size": -1 if settings.group_size == "row" else settings.group_size,
        "sym": settings.symmetric,
        # To readers, this field says that g_idx is not in order. With static groups it is, in any order of solving.
        "desc_act": settings.activation_order == "dynamic",
        "act_group_aware": False,
        "static_groups": settings.activation_order == "static",
        "true_sequential": True,
        "damp_percent": settings.damping,
        "lm_head": settings.head == "quantized",
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
    }
    # By this field, readers need not guess which layers are quantized. Its nested form is the one that optimum writes.
    fields["modules_in_block_to_quantize"] = [list(LINEARS)]
    config = job.source.architecture.config() | {"quantization_config": fields}
    for name, content in (("config.json", config), (QUANTIZE_CONFIG, auto_gptq_fields(fields))):
        (job.folder / name).write_text(json.dumps(content, indent=2) + "\n")
