"""Write a GPTQ artifact layer by layer, each solved against the inputs that the quantized layers before it give."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from pythia_quant.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS, layer_name
from pythia_quant.errors import QuantizationError
from pythia_quant.formats.floats import to_dtype
from pythia_quant.formats.gptq.packing import pack
from pythia_quant.formats.gptq.settings import GptqSettings
from pythia_quant.formats.job import Job, Written
from pythia_quant.formats.shards import ShardWriter
from pythia_quant.layerwise import Forward, layer_tensor_names
from pythia_quant.quantizers import gptq

PASSES = (
    ("attention.query_key_value", "mlp.dense_h_to_4h"),
    ("attention.dense", "mlp.dense_4h_to_h"),
)
"""Linear layers solved from one pass: with a parallel residual the first two both read the layer's input."""


@torch.no_grad()
def write(job: Job[GptqSettings]) -> Written:
    """Quantize the linear layers against the calibration windows; all else stays fp16.

    Raises:
        QuantizationError: too little calibration text, activations that are not finite, or a value kept in fp16 does
            not fit it.
    """
    check_calibration(job)
    architecture = job.source.architecture
    writer = ShardWriter(job.folder)
    calibration, probe = Forward(architecture, job.calibration), Forward(architecture, job.probe)
    linears: dict[str, object] = {}

    def keep(name: str) -> Tensor:
        kept = to_dtype(name, job.source.read(name), torch.float16)
        writer.add(name, kept)
        return kept.float()

    embedding = keep(EMBEDDING)
    calibration.embed(embedding)
    probe.embed(embedding)
    for index in range(architecture.layers):
        job.report("layer", index, architecture.layers)
        layer = layer_name(index)
        weights = {
            name: job.source.read(f"{layer}.{name}").float() if _is_linear(name) else keep(f"{layer}.{name}")
            for name in layer_tensor_names(architecture)
        }
        for names in PASSES:
            for name, hessian in collect(calibration, weights, names, layer).items():
                solution = solve(job.settings, f"{layer}.{name}", weights[f"{name}.weight"], hessian)
                for part, tensor in pack(solution.quantized).items():
                    writer.add(f"{layer}.{name}.{part}", tensor)
                weights[f"{name}.weight"] = solution.quantized.dequantize()
                linears[f"{layer}.{name}"] = {
                    "relative_error": solution.error,
                    "relative_error_rounding": solution.rounding_error,
                    "damping": solution.damping,
                }
        calibration.layer(weights)
        probe.layer(weights)
    hidden = probe.finish(keep(f"{FINAL_NORM}.weight"), keep(f"{FINAL_NORM}.bias"))
    logits = hidden @ keep(HEAD).T
    writer.close()
    _write_configs(job)
    return Written(writer.tensor_bytes, logits, {"calibration_tokens": job.calibration.numel(), "linears": linears})


def check_calibration(job: Job[GptqSettings]) -> None:
    """Refuse calibration text with fewer tokens than the widest layer has inputs: its Hessian would be singular.

    Raises:
        QuantizationError: with both numbers.
    """
    architecture, tokens = job.source.architecture, job.calibration.numel()
    needed = max(architecture.width, architecture.mlp_width)
    if tokens < needed:
        raise QuantizationError(
            f"GPTQ was given {tokens:,} calibration tokens; a layer with {needed:,} inputs needs at least as many",
            hint="raise calibration.windows in the recipe, or give a longer text; 128 windows are usual",
        )


def collect(
    calibration: Forward, weights: dict[str, Tensor], names: tuple[str, ...], layer: str
) -> dict[str, gptq.Hessian]:
    """Run the calibration windows through a layer and return the Hessians of some of its linear layers' inputs.

    Raises:
        QuantizationError: inputs are not finite.
    """
    hessians = {name: gptq.Hessian(weights[f"{name}.weight"].shape[1]) for name in names}

    def observe(name: str, inputs: Tensor) -> None:
        if name in hessians:
            hessians[name].add(inputs)

    calibration.layer(weights, observe, advance=False)
    for name, hessian in hessians.items():
        # Every input enters the diagonal as a square, so it is finite only when all of them are.
        if not torch.isfinite(hessian.matrix.diagonal()).all():
            raise QuantizationError(
                "the inputs of this layer are not finite on the calibration text",
                where=f"{layer}.{name}",
                hint="the checkpoint does not compute in fp32; use another revision",
            )
    return hessians


def solve(settings: GptqSettings, name: str, weight: Tensor, hessian: gptq.Hessian) -> gptq.Solution:
    """Quantize one linear layer's weight.

    Raises:
        QuantizationError: see :func:`pythia_quant.quantizers.gptq.quantize`; the message names the layer.
    """
    try:
        return gptq.quantize(weight, hessian, settings.bits, settings.group_size, settings.damping)
    except QuantizationError as error:
        raise QuantizationError(error.what, where=name, hint=error.hint) from error


def _is_linear(name: str) -> bool:
    return name.removesuffix(".weight") in LINEARS


def _write_configs(job: Job[GptqSettings]) -> None:
    settings = job.settings
    fields: dict[str, object] = {
        "bits": settings.bits,
        "group_size": settings.group_size,
        "sym": settings.symmetric,
        "desc_act": settings.activation_order,
        "act_group_aware": False,
        "static_groups": False,
        "true_sequential": True,
        "damp_percent": settings.damping,
        "lm_head": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
    }
    # The key lets readers skip their guess at what is quantized; the nesting is optimum's order of quantizing.
    config = job.source.architecture.config() | {
        "quantization_config": fields | {"modules_in_block_to_quantize": [list(names) for names in PASSES]}
    }
    # auto-gptq reads this file instead, and would look for gptq_model-4bit-128g.safetensors without the last key.
    for_auto_gptq = fields | {"model_file_base_name": "model"}
    for name, content in (("config.json", config), ("quantize_config.json", for_auto_gptq)):
        (job.folder / name).write_text(json.dumps(content, indent=2) + "\n")
