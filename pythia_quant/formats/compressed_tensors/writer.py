"""Write the integers of a GPTQ artifact in the layout of compressed-tensors, one tensor at a time."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.formats.compressed_tensors.packing import pack
from pythia_quant.formats.compressed_tensors.reader import quantization_fields
from pythia_quant.formats.job import Job, ShardWriter, Written, to_dtype
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS, layer_name
from pythia_quant.model.forward import Forward, layer_tensor_names
from pythia_quant.recipe.compressed_variant import CompressedSettings


@torch.no_grad()
def write(job: Job[CompressedSettings]) -> Written:
    """Write the integers of `job.codes` unchanged, and its other tensors in fp16, as they are there.

    Returns:
        The logits of the intended weights on the probe.

    Raises:
        QuantizationError: there are no codes to take, or they are not symmetric in groups of neighbours.
        ArtifactError: the artifact of the codes is damaged.
    """
    codes, settings, shape = job.codes, job.settings, job.source.architecture
    if codes is None:
        raise QuantizationError("compressed-tensors stores the integers of a GPTQ variant", hint="say codes: NAME")
    writer = ShardWriter(job.folder)

    def copy(name: str) -> Tensor:
        tensor = to_dtype(name, codes.read(name), torch.float16)
        writer.add(name, tensor)
        return tensor.float()

    forward = Forward(shape, job.probe)
    forward.embed(copy(EMBEDDING))
    linears = {f"{name}.weight" for name in LINEARS}
    for index in range(shape.layers):
        job.progress.step("layer", index, shape.layers)
        prefix, layer = layer_name(index), dict[str, Tensor]()
        for name in layer_tensor_names(shape):
            if name not in linears:
                layer[name] = copy(f"{prefix}.{name}")
                continue
            quantized = codes.quantized(f"{prefix}.{name}")
            neighbours = (quantized.groups.diff() >= 0).all()
            if quantized.bits != settings.bits or (quantized.zeros != 2 ** (settings.bits - 1)).any() or not neighbours:
                what = f"is not of {settings.bits} bits, symmetric, in groups of neighbouring inputs"
                raise QuantizationError(what, where=f"{prefix}.{name}", hint=f"solve {settings.codes} again")
            for part, tensor in pack(quantized).items():
                writer.add(f"{prefix}.{name.removesuffix('.weight')}.{part}", tensor)
            layer[name] = quantized.dequantize()
        forward.layer(layer)
    hidden = forward.finish(*(copy(f"{FINAL_NORM}.{part}") for part in ("weight", "bias")))
    logits = hidden @ copy(HEAD).T
    writer.close()
    size = None if settings.group_size == "row" else settings.group_size
    config = shape.config() | {"quantization_config": quantization_fields(settings.bits, size)}
    (job.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return Written(logits)
