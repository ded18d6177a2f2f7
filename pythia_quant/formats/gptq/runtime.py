"""Run GPTQ artifacts on the CPU with torch's int4 kernel, or with gptqmodel if that is installed."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer

from pythia_quant.core import compat
from pythia_quant.core.errors import ArtifactError, BenchmarkError
from pythia_quant.formats.gptq.integers import GptqReader
from pythia_quant.formats.gptq.reader import read
from pythia_quant.formats.tensor_files import check_all_finite
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS, layer_name
from pythia_quant.quantizers.grid import Quantized
from pythia_quant.runtimes.protocol import Stage
from pythia_quant.runtimes.transformers import HfRuntime, dtype_name, load_pretrained
from pythia_quant.runtimes.transformers_layers import TorchLayers, layers_description


def open_runtime(folder: Path, threads: int, device: str = "cpu") -> HfRuntime:
    """Load a GPTQ artifact. If gptqmodel and optimum are installed, they and transformers run it.

    Args:
        folder: the artifact.
        threads: the number of torch's threads in this process.
        device: ``cpu`` or ``cuda``; on ``cuda`` only gptqmodel runs.

    Raises:
        ArtifactError: a file or tensor is missing or damaged.
        BenchmarkError: the artifact cannot run on `device`.
    """
    torch.set_num_threads(threads)
    weights = read(folder)
    if find_spec("gptqmodel") and find_spec("optimum") and not weights.is_quantized(HEAD):
        return open_with_gptqmodel(folder, device)
    return _open_on_cpu(weights, folder, device, "pip install 'pythia-quant[gptq]', or measure it on the CPU")


def open_foreign(weights: GptqReader, folder: Path, threads: int, device: str = "cpu") -> HfRuntime:
    """Load integers of another maker into the same model and kernel as ours.

    Args:
        weights: reads them.
        folder: where they are, for messages.
        threads: the number of torch's threads in this process.
        device: ``cpu``; on others nothing runs them.

    Raises:
        ArtifactError: a file or tensor is missing or damaged, or embeddings or head exceed fp16, in which they run.
        BenchmarkError: `device` is not the CPU.
    """
    torch.set_num_threads(threads)
    _check_halves(weights, folder)
    return _open_on_cpu(weights, folder, device, "measure it on the CPU: --device cpu")


def _open_on_cpu(weights: GptqReader, folder: Path, device: str, hint: str) -> HfRuntime:
    if device != "cpu":
        # Dequantized, it would run there, but with the speed and memory of an unquantized model.
        raise BenchmarkError(
            "on a GPU only gptqmodel runs GPTQ artifacts, and none with a quantized head",
            where=str(folder),
            hint=hint,
        )
    model = build_model(weights)
    dequantized = sum(isinstance(module, DequantizedLinear) for module in model.modules())
    return HfRuntime(model, kernel_description(weights, dequantized))


def _check_halves(weights: GptqReader, folder: Path) -> None:
    for name in (EMBEDDING, HEAD):
        if not weights.is_quantized(name) and not weights.read(name).half().isfinite().all():
            raise ArtifactError(f"{name} holds values that fp16 cannot hold, in which it is run", where=str(folder))


def kernel_description(weights: GptqReader, dequantized: int) -> str:
    """Return the kernel and the dtypes, which tables show beside every number.

    Args:
        weights: the artifact's weights.
        dequantized: the number of linear layers that the kernel does not take, or that are not quantized.
    """
    exceptions = f" ({dequantized} layers dequantized)" if dequantized else ""
    head = "" if weights.is_quantized(HEAD) else ", head float16"
    return f"torch int4 kernel in bfloat16{exceptions}{head}, the rest float32"


@torch.no_grad()
def build_model(weights: GptqReader) -> GPTNeoXForCausalLM:
    """Build a model with an artifact's integers as its weights; it takes about as much memory as the artifact on disk.

    The residual stream, norms and attention are in fp32. This costs little, because most time goes into the weights.
    """
    config = GPTNeoXConfig(**weights.architecture.config())
    # This allocates no memory for the tensors. All are replaced below; the reader has checked that none is missing.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    neox = model.gpt_neox
    neox.rotary_emb = type(neox.rotary_emb)(config)  # its frequencies are computed, and in no file
    neox.embed_in = HalfEmbedding(weights.read(EMBEDDING))
    for index in range(config.num_hidden_layers):
        layer = layer_name(index)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            _load_norm(model, f"{layer}.{norm}", weights)
        for linear in LINEARS:
            name = f"{layer}.{linear}"
            model.set_submodule(name, _read_linear(weights, name))
    _load_norm(model, FINAL_NORM, weights)
    if weights.is_quantized(HEAD):
        model.lm_head = linear_layer(weights.quantized(HEAD), torch.zeros(config.vocab_size))
    else:
        model.lm_head = HalfHead(weights.read(HEAD))
    model.eval()
    return cast(GPTNeoXForCausalLM, model)


def _read_linear(weights: GptqReader, name: str) -> nn.Module:
    """Read a linear layer by its name without ``.weight``; other makers leave some of them unquantized."""
    weight, bias = f"{name}.weight", weights.read(f"{name}.bias")
    if not weights.is_quantized(weight):
        return DequantizedLinear(weights.read(weight), bias)
    return linear_layer(weights.quantized(weight), bias)


def runs_in_kernel(weights: GptqReader) -> bool:
    """Say whether the kernel takes the linear layers, judged by those of the first layer."""
    names = [f"{layer_name(0)}.{linear}.weight" for linear in LINEARS]
    return all(weights.is_quantized(one) and kernel_group_size(weights.quantized(one)) for one in names)


_KERNEL_GROUPS = (256, 128, 64, 32)


def linear_layer(quantized: Quantized, bias: Tensor) -> nn.Module:
    """Return a linear layer that uses the int4 kernel if the kernel takes the weight, and is dequantized if not.

    Args:
        quantized: the weight, [out, in].
        bias: fp32 [out].
    """
    kernel_group = kernel_group_size(quantized)
    if kernel_group is None:
        return DequantizedLinear(quantized.dequantize(), bias)
    return Int4Linear(quantized, bias, kernel_group)


def kernel_group_size(quantized: Quantized) -> int | None:
    """Return the size of the groups in which torch's int4 CPU kernel computes a weight; None if it does not take it.

    The conditions are those of torch 2.13. Codes of 2 and 3 bits fit into 4 bits. A group of the weight may be several
    groups of the kernel, with the same scale. All groups must have as many inputs.
    """
    (out, width), groups = quantized.codes.shape, quantized.scales.shape[1]
    size = width // groups
    if quantized.bits > 4 or out % 16 or (torch.bincount(quantized.groups, minlength=groups) != size).any():
        return None
    return next((kernel for kernel in _KERNEL_GROUPS if size % kernel == 0), None)


class Int4Linear(nn.Module):
    """A linear layer in torch's int4 CPU kernel (``aten::_weight_int4pack_mm_for_cpu``).

    In the kernel, a weight is ``(code - 8) * scale + offset``. The kernel also takes inputs in fp32 and fp16, and is
    then exact, but 50 to 400 times slower. With inputs in bf16, it sums in fp32 and rounds the result to bf16, with a
    relative error of 0.0016 (root mean square). Compared with a bf16 product, it takes a quarter of the time for one
    row, the same for 16 rows, and twice the time for 512 rows.

    Args:
        quantized: a weight that the kernel takes. If the inputs of a group are not neighbours, which an activation
            order can cause, inputs are first brought into the order of the groups.
        bias: fp32 [out].
        group_size: the size of the kernel's groups.
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
        middle = 2 ** (
            quantized.bits - 1
        )  # codes of fewer bits are moved to the middle of 0 to 15, where offsets are small
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
    """A linear layer with its weight in fp32: exact, and of eight times the memory of 4-bit codes."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return fp32 [..., out] for fp32 [..., in]."""
        return F.linear(inputs, self.weight, self.bias)


class HalfEmbedding(nn.Module):
    """An embedding matrix that stays in fp16, as in the artifact, and returns fp32."""

    weight: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", table.half())

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float()


class HalfHead(nn.Module):
    """A head that stays in fp16, as in the artifact. For one token it is as fast as bf16, with three more exact bits.

    Most of the loss of a model in bf16 is in its head: in the 14m shape, the KL divergence from the same weights in
    fp32 is 1.1e-4 with a bf16 head and 2.7e-5 with this one.
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.half())

    def forward(self, hidden: Tensor) -> Tensor:
        rounded = hidden.half()
        if rounded.numel() == rounded.shape[-1]:
            return F.linear(rounded, self.weight)
        # CPUs have no fast fp16 product of matrices. This one rounds at the same places as the one above.
        return F.linear(rounded.float(), self.weight.float()).half()


def _load_norm(model: GPTNeoXForCausalLM, name: str, weights: GptqReader) -> None:
    state = {part: weights.read(f"{name}.{part}") for part in ("weight", "bias")}
    model.get_submodule(name).load_state_dict(state, assign=True)


class GptqLayers(TorchLayers):
    """A GPTQ artifact in stages, with the same linear layers as a whole model has; see :func:`linear_layer`."""

    def __init__(self, weights: GptqReader) -> None:
        super().__init__(weights, torch.float32)
        self._weights = weights
        names = [f"{layer_name(0)}.{linear}.weight" for linear in LINEARS] * weights.architecture.layers
        names += [HEAD] if weights.is_quantized(HEAD) else []
        in_kernel = {
            name: weights.is_quantized(name) and kernel_group_size(weights.quantized(name)) is not None
            for name in set(names)
        }
        dequantized = sum(not in_kernel[name] for name in names)
        self.description = layers_description(kernel_description(weights, dequantized))

    def head(self) -> Stage:
        """Load the head, quantized or in fp16, as the artifact stores it."""
        if self._weights.is_quantized(HEAD):
            return linear_layer(self._weights.quantized(HEAD), torch.zeros(self.reader.architecture.vocabulary))
        head = HalfHead(self.reader.read(HEAD))
        return lambda hidden: head(hidden).float()

    def _load(self, module: nn.Module, prefix: str) -> None:
        if isinstance(module, GPTNeoXLayer):
            for linear in LINEARS:
                module.set_submodule(linear, _read_linear(self._weights, f"{prefix}.{linear}"))
            for norm in ("input_layernorm", "post_attention_layernorm"):
                super()._load(module.get_submodule(norm), f"{prefix}.{norm}")
        else:
            super()._load(module, prefix)


def open_layers(folder: Path, threads: int) -> GptqLayers:
    """Open a GPTQ artifact to run it layer by layer.

    Raises:
        ArtifactError: a file or tensor is missing or damaged.
    """
    torch.set_num_threads(threads)
    return GptqLayers(read(folder))


def open_foreign_layers(weights: GptqReader, folder: Path, threads: int) -> GptqLayers:
    """Open integers of another maker to run them layer by layer; see :func:`open_foreign`."""
    torch.set_num_threads(threads)
    _check_halves(weights, folder)
    return GptqLayers(weights)


def open_with_gptqmodel(folder: Path, device: str = "cpu") -> HfRuntime:
    """Load a GPTQ artifact in fp16 with transformers, optimum and gptqmodel, all of which must be installed.

    Args:
        folder: the artifact.
        device: ``cpu`` or ``cuda``.

    Raises:
        ArtifactError: the artifact cannot be loaded, lacks tensors, or has values that are not finite.
    """
    check_all_finite(folder)
    model = load_pretrained(folder, torch.float16, use_safetensors=True, device_map={"": device})
    linear = type(model.get_submodule(f"{layer_name(0)}.attention.dense")).__name__
    return HfRuntime(model, f"gptqmodel {version('gptqmodel')} {linear}, {dtype_name(torch.float16)}")
