"""Write 4-bit bitsandbytes weights, tensor by tensor, in the layout that transformers saves and loads."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from pythia_quant.formats.bnb.library import bitsandbytes, quantization_config
from pythia_quant.formats.bnb.quant_state import BLOCK_SIZE
from pythia_quant.formats.job import Job, ShardWriter, Written, to_dtype
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS, layer_name
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import Forward, read_layer
from pythia_quant.recipe.variants import BnbSettings


@torch.no_grad()
def write(job: Job[BnbSettings]) -> Written:
    """Quantize the linear layers with bitsandbytes; embeddings, head, norms and biases are stored in the compute dtype.

    Layers are equalized before, which changes no function; where a few inputs have most of a block's range, the others
    would be rounded away.

    Raises:
        QuantizationError: a value does not fit fp16, where that is the compute dtype.
    """
    settings, architecture = job.settings, job.source.architecture
    writer, dtype = ShardWriter(job.folder), getattr(torch, settings.compute_dtype)
    forward = Forward(architecture, job.probe)

    def write_unquantized(name: str, value: Tensor) -> Tensor:
        tensor = to_dtype(name, value, dtype)
        writer.add(name, tensor)
        return tensor.float()

    def copy(name: str) -> Tensor:
        return write_unquantized(name, job.source.read(name))

    forward.embed(copy(EMBEDDING))
    for index in range(architecture.layers):
        job.progress.step("layer", index, architecture.layers)
        layer = read_layer(job.source, index)
        if settings.equalize:
            equalize(architecture, layer)
        for name, value in layer.items():
            full_name = f"{layer_name(index)}.{name}"
            if name.removesuffix(".weight") in LINEARS:
                stored, layer[name] = quantize(value, settings)
                for suffix, tensor in stored.items():
                    writer.add(f"{full_name}{suffix}", tensor)
            else:
                layer[name] = write_unquantized(full_name, value)
        forward.layer(layer)
    hidden = forward.finish(copy(f"{FINAL_NORM}.weight"), copy(f"{FINAL_NORM}.bias"))
    logits = hidden @ copy(HEAD).T
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
