"""GPTQ artifacts on the CPU with torch's int4 kernel, or with gptqmodel where that is installed."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer

from pythia_quant.core import compat
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.formats.gptq.reader import GptqWeights, read
from pythia_quant.formats.tensor_files import check_all_finite
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS, layer_name
from pythia_quant.quantizers.grid import Quantized
from pythia_quant.runtimes.protocol import Stage
from pythia_quant.runtimes.transformers import HfRuntime, dtype_name, load_pretrained
from pythia_quant.runtimes.transformers_layers import TorchLayers, layers_description


def open_runtime(folder: Path, threads: int, device: str = "cpu") -> HfRuntime:
    """Load a GPTQ artifact; with gptqmodel and optimum installed, through them and transformers.

    Args:
        folder: the artifact.
        threads: for the whole process, as torch counts them.
        device: ``cpu``, or ``cuda``, where only gptqmodel runs.

    Raises:
        ArtifactError: a file or tensor is missing or damaged.
        BenchmarkError: it cannot run on `device`.
    """
    torch.set_num_threads(threads)
    weights = read(folder)
    if find_spec("gptqmodel") and find_spec("optimum") and not weights.is_quantized(HEAD):
        return open_gptq_reference(folder, device)
    if device != "cpu":
        # Dequantized it would run there, with the speed and memory of an unquantized model.
        raise BenchmarkError(
            "on a GPU only gptqmodel runs GPTQ artifacts, and none with a quantized head",
            where=str(folder),
            hint="pip install 'pythia-quant[gptq]', or measure it on the CPU",
        )
    model = build(weights)
    dequantized = sum(isinstance(module, DequantizedLinear) for module in model.modules())
    return HfRuntime(model, describe(weights, dequantized))


def describe(weights: GptqWeights, dequantized: int) -> str:
    """Return kernel and dtypes, as printed beside every number; `dequantized` layers are not in the kernel."""
    exceptions = f" ({dequantized} layers dequantized)" if dequantized else ""
    head = "" if weights.is_quantized(HEAD) else ", head float16"
    return f"torch int4 kernel in bfloat16{exceptions}{head}, the rest float32"


@torch.no_grad()
def build(weights: GptqWeights) -> GPTNeoXForCausalLM:
    """Build the model around an artifact's integers; in memory it is about as large as on disk.

    Residual stream, norms and attention are fp32, which costs next to nothing where weights are what takes time.
    """
    config = GPTNeoXConfig(**weights.architecture.config())
    # No memory and no random values for what is replaced below; the reader has checked that all of it is there.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    neox = model.gpt_neox
    neox.rotary_emb = type(neox.rotary_emb)(config)  # its frequencies are computed, not stored
    neox.embed_in = HalfEmbedding(weights.read(EMBEDDING))
    for index in range(config.num_hidden_layers):
        layer = layer_name(index)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            _load_norm(model, f"{layer}.{norm}", weights)
        for linear in LINEARS:
            name = f"{layer}.{linear}"
            module = linear_layer(weights.quantized(f"{name}.weight"), weights.read(f"{name}.bias"))
            model.set_submodule(name, module)
    _load_norm(model, FINAL_NORM, weights)
    if weights.is_quantized(HEAD):
        model.lm_head = linear_layer(weights.quantized(HEAD), torch.zeros(config.vocab_size))
    else:
        model.lm_head = HalfHead(weights.read(HEAD))
    model.eval()
    built: GPTNeoXForCausalLM = model
    return built


_KERNEL_GROUPS = (256, 128, 64, 32)


def linear_layer(quantized: Quantized, bias: Tensor) -> nn.Module:
    """Return a linear layer: in the int4 kernel where that takes the weight, else dequantized."""
    kernel_group = kernel_group_size(quantized)
    if kernel_group is None:
        return DequantizedLinear(quantized, bias)
    return Int4Linear(quantized, bias, kernel_group)


def kernel_group_size(quantized: Quantized) -> int | None:
    """Return in what groups torch's int4 CPU kernel computes a weight, as torch 2.13 checks it; None when it does not.

    Codes of 2 and 3 bits are numbers of 4, and a longer group is several with the same scale.
    """
    out, width = quantized.codes.shape
    size = width // quantized.scales.shape[1]
    if quantized.bits > 4 or out % 16:
        return None
    return next((kernel for kernel in _KERNEL_GROUPS if size % kernel == 0), None)


class Int4Linear(nn.Module):
    """A linear layer in torch's int4 CPU kernel (``aten::_weight_int4pack_mm_for_cpu``).

    A weight there is ``(code - 8) * scale + offset``. The kernel also takes fp32 and fp16, exactly but 50 to 400 times
    slower. In bf16 it sums in fp32 and rounds the result: 0.0016 relative (root mean square), which is bf16's rounding.
    One row costs a quarter of a bf16 product, 16 rows as much, 512 rows twice as much.

    Args:
        quantized: a weight that the kernel takes. Where its groups are not neighbours, as an activation order can leave
            them, inputs are put in the order of the groups first.
        bias: fp32 [out].
        group_size: the kernel's.
    """

    bias: Tensor
    codes: Tensor
    scales: Tensor
    order: Tensor | None

    def __init__(self, quantized: Quantized, bias: Tensor, group_size: int) -> None:
        super().__init__()
        self.group_size = group_size
        order = torch.argsort(quantized.groups, stable=True)
        neighbours = torch.equal(order, torch.arange(len(order)))
        self.register_buffer("order", None if neighbours else order)
        middle = 2 ** (quantized.bits - 1)  # fewer bits are moved to the middle of four, where offsets are small
        codes = quantized.codes[:, order].int() + (8 - middle)
        repeats = codes.shape[1] // quantized.scales.shape[1] // group_size
        scales = quantized.scales.float().repeat_interleave(repeats, dim=1)
        offsets = (middle - quantized.zeros.float()).repeat_interleave(repeats, dim=1) * scales
        self.register_buffer("codes", compat.pack_int4(codes))
        self.register_buffer("scales", torch.stack([scales.T, offsets.T], dim=-1).bfloat16())
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return fp32 [..., out] for fp32 [..., in]."""
        rows = inputs.flatten(0, -2).bfloat16()
        if self.order is not None:
            rows = rows.index_select(1, self.order)
        product = compat.int4_product(rows, self.codes, self.group_size, self.scales)
        return (product + self.bias).view(*inputs.shape[:-1], -1)


class DequantizedLinear(nn.Module):
    """A linear layer in fp32, of what the codes stand for: exact, and eight times the memory."""

    weight: Tensor
    bias: Tensor

    def __init__(self, quantized: Quantized, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", quantized.dequantize())
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return fp32 [..., out] for fp32 [..., in]."""
        return F.linear(inputs, self.weight, self.bias)


class HalfEmbedding(nn.Module):
    """An embedding matrix kept in the fp16 it is stored in, looked up as fp32."""

    weight: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", table.half())

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float()


class HalfHead(nn.Module):
    """The head in the fp16 it is stored in: for one token as fast as bf16, and its logits keep three more bits.

    That is where most of an all-bf16 model's loss is: on a 14m model the KL divergence from the same weights in fp32 is
    1.1e-4 with a bf16 head, 2.7e-5 with this one.
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.half())

    def forward(self, hidden: Tensor) -> Tensor:
        rounded = hidden.half()
        if rounded.numel() == rounded.shape[-1]:
            return F.linear(rounded, self.weight)
        # CPUs have no fast fp16 product of matrices; this one rounds where the other does.
        return F.linear(rounded.float(), self.weight.float()).half()


def _load_norm(model: GPTNeoXForCausalLM, name: str, weights: GptqWeights) -> None:
    state = {part: weights.read(f"{name}.{part}") for part in ("weight", "bias")}
    model.get_submodule(name).load_state_dict(state, assign=True)


class GptqLayers(TorchLayers):
    """A GPTQ artifact, with the linear layers that :mod:`pythia_quant.formats.gptq.runtime` runs whole models in."""

    def __init__(self, weights: GptqWeights) -> None:
        super().__init__(weights, torch.float32)
        self._weights = weights
        names = [f"{layer_name(0)}.{linear}.weight" for linear in LINEARS] * weights.architecture.layers
        names += [HEAD] if weights.is_quantized(HEAD) else []
        in_kernel = {name: kernel_group_size(weights.quantized(name)) is not None for name in set(names)}
        dequantized = sum(not in_kernel[name] for name in names)
        self.description = layers_description(describe(weights, dequantized))

    def head(self) -> Stage:
        """Multiply in integers, or in the fp16 that is stored."""
        if self._weights.is_quantized(HEAD):
            return linear_layer(self._weights.quantized(HEAD), torch.zeros(self.reader.architecture.vocabulary))
        head = HalfHead(self.reader.read(HEAD))
        return lambda hidden: head(hidden).float()

    def _load(self, module: nn.Module, prefix: str) -> None:
        if isinstance(module, GPTNeoXLayer):
            for linear in LINEARS:
                name = f"{prefix}.{linear}"
                bias = self.reader.read(f"{name}.bias")
                module.set_submodule(linear, linear_layer(self._weights.quantized(f"{name}.weight"), bias))
            for norm in ("input_layernorm", "post_attention_layernorm"):
                super()._load(module.get_submodule(norm), f"{prefix}.{norm}")
        else:
            super()._load(module, prefix)


def open_gptq(folder: Path, threads: int) -> GptqLayers:
    """Open a GPTQ artifact to run it layer by layer.

    Raises:
        ArtifactError: a file or tensor is missing or damaged.
    """
    torch.set_num_threads(threads)
    return GptqLayers(read(folder))


def open_gptq_reference(folder: Path, device: str = "cpu") -> HfRuntime:
    """Load a GPTQ artifact as others read it: transformers, optimum and gptqmodel, all installed, in fp16.

    Args:
        folder: the artifact.
        device: ``cpu`` or ``cuda``.

    Raises:
        ArtifactError: it cannot be loaded, lacks tensors, or holds some that are not finite.
    """
    check_all_finite(folder)
    model = load_pretrained(folder, torch.float16, use_safetensors=True, device_map={"": device})
    linear = type(model.get_submodule(f"{layer_name(0)}.attention.dense")).__name__
    return HfRuntime(model, f"gptqmodel {version('gptqmodel')} {linear}, {dtype_name(torch.float16)}")
