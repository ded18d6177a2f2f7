"""Write 4-bit bitsandbytes weights, tensor by tensor, in the layout that transformers saves and loads."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from pythia_quant.formats.bnb.library import bitsandbytes, quantization_config
from pythia_quant.formats.bnb.quant_state import BLOCK_SIZE
from pythia_quant.formats.job import Job, ShardWriter, Written, to_dtype
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS, layer_name
from pythia_quant.model.forward import Forward, layer_tensor_names
from pythia_quant.recipe.variants import BnbSettings


@torch.no_grad()
def write(job: Job[BnbSettings]) -> Written:
    """Quantize the linear layers with bitsandbytes; embeddings, head, norms and biases are stored in the compute dtype.

    Raises:
        QuantizationError: a value does not fit fp16, where that is the compute dtype.
    """
    settings, architecture = job.settings, job.source.architecture
    writer, dtype = ShardWriter(job.folder), getattr(torch, settings.compute_dtype)
    forward = Forward(architecture, job.probe)

    def write_unquantized(name: str) -> Tensor:
        tensor = to_dtype(name, job.source.read(name), dtype)
        writer.add(name, tensor)
        return tensor.float()

    forward.embed(write_unquantized(EMBEDDING))
    for index in range(architecture.layers):
        job.progress.step("layer", index, architecture.layers)
        weights: dict[str, Tensor] = {}
        for name in layer_tensor_names(architecture):
            full_name = f"{layer_name(index)}.{name}"
            if name.removesuffix(".weight") in LINEARS:
                stored, weights[name] = quantize(job.source.read(full_name), settings)
                for suffix, tensor in stored.items():
                    writer.add(f"{full_name}{suffix}", tensor)
            else:
                weights[name] = write_unquantized(full_name)
        forward.layer(weights)
    hidden = forward.finish(write_unquantized(f"{FINAL_NORM}.weight"), write_unquantized(f"{FINAL_NORM}.bias"))
    logits = hidden @ write_unquantized(HEAD).T
    writer.close()
    config = architecture.config() | {
        "dtype": settings.compute_dtype,
        "torch_dtype": settings.compute_dtype,
        "quantization_config": quantization_config(settings),
    }
    (job.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return Written(logits)


def quantize(weight: Tensor, settings: BnbSettings) -> tuple[dict[str, Tensor], Tensor]:
    """Quantize one weight, [out, in] in any dtype; bitsandbytes sees it in fp32, so nothing is rounded before.

    Returns:
        The stored tensors by the suffix of their name, and the fp32 weight they stand for.
    """
    functional = bitsandbytes().functional
    codes, state = functional.quantize_4bit(
        weight.float(),
        blocksize=BLOCK_SIZE,
        quant_type=settings.quant_type,
        compress_statistics=settings.double_quant,
    )
    dequantized: Tensor = functional.dequantize_4bit(codes, state)
    state.dtype = getattr(torch, settings.compute_dtype)  # what it is dequantized to when it runs
    return {"": codes} | {f".{key}": tensor for key, tensor in state.as_dict(packed=True).items()}, dequantized
