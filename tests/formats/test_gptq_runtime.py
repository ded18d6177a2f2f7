"""The int4 runtime computes what the artifact's weights stand for, up to the rounding of its kernel."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from gptq_models import PROBE, SHAPE, convert, source, tokens
from rounding import round_to_nearest
from safetensors.torch import load_file, save_file
from torch import Tensor

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.gptq.reader import read
from pythia_quant.formats.gptq.runtime import Int4Linear, build_model, linear_layer, open_runtime, open_with_gptqmodel
from pythia_quant.quantizers.grid import Quantized
from pythia_quant.runtimes.protocol import generate
from pythia_quant.runtimes.transformers import HfRuntime

# The kernel rounds inputs, scales and results to bf16 (8 bits: at most 2**-9 each, 0.0016 root mean square); a few of
# these add up along two layers. Measured on this model: 0.004. A wrong zero point or group gives more than 0.5.
KERNEL_TOLERANCE = 0.012

needs_gptqmodel = pytest.mark.skipif(
    not (find_spec("gptqmodel") and find_spec("optimum")), reason="gptqmodel builds from source; it is an extra"
)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def own_runtime(folder: Path) -> HfRuntime:
    return HfRuntime(build_model(read(folder)), "int4")


@pytest.mark.parametrize(
    "settings",
    [
        {"group_size": 32},
        {"group_size": 64},
        {"group_size": 128},
        {"group_size": "row"},
        {"symmetric": False},
        {"activation_order": "dynamic", "group_size": 32},
        {"bits": 2, "group_size": 32},
        {"bits": 3, "symmetric": False, "activation_order": "dynamic"},
        {"bits": 8},
        {"head": "quantized"},
    ],
    ids=str,
)
def test_logits_are_those_of_the_dequantized_weights(tmp_path: Path, settings: dict[str, Any]) -> None:
    written = convert(source(tmp_path / "source"), tmp_path / "artifact", **settings)
    runtime = own_runtime(tmp_path / "artifact")
    logits = runtime.logits(PROBE)
    assert logits.dtype == torch.float32
    assert relative_error(logits, written.logits) < KERNEL_TOLERANCE


def test_prefill_and_steps_give_the_logits_of_the_whole_sequence(tmp_path: Path) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact")
    runtime = own_runtime(tmp_path / "artifact")
    ids = tokens(1, 30)[0]
    expected = runtime.logits(ids[None])[0]
    steps = [runtime.prefill(ids[:20], capacity=30)] + [runtime.step(int(token)) for token in ids[20:]]
    # One row and many rows may sum in another order, which bf16's rounding then shows.
    assert relative_error(torch.stack(steps), expected[19:]) < KERNEL_TOLERANCE


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group_size", [32, 64, 128, 512])
@pytest.mark.parametrize("rows", [1, 5, 70])
@pytest.mark.parametrize("shuffled", [False, True])
def test_one_linear_layer(bits: int, group_size: int, rows: int, shuffled: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    quantized = round_to_nearest(torch.randn(48, 512, generator=generator), bits, group_size)
    zeros = torch.randint(1, 2**bits, quantized.zeros.shape, dtype=torch.uint8, generator=generator)
    groups = quantized.groups
    if shuffled:  # what an activation order leaves
        groups = groups[torch.randperm(512, generator=generator)]
    quantized = Quantized(bits, quantized.codes, quantized.scales.bfloat16().half(), zeros, groups)
    bias = torch.randn(48, generator=generator)
    inputs = torch.randn(2, rows, 512, generator=generator).bfloat16().float()
    expected = inputs @ quantized.dequantize().T + bias
    # Inputs and scales are exact in bf16 here; what remains is the rounding of offsets and results.
    layer = linear_layer(quantized, bias)
    assert isinstance(layer, Int4Linear)
    assert relative_error(layer(inputs), expected) < 0.004


def test_nothing_is_left_without_memory_or_unquantized(tmp_path: Path) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact")
    model = build_model(read(tmp_path / "artifact"))
    held = [*model.parameters(), *model.buffers()]
    assert not any(tensor.is_meta for tensor in held)
    stored = (tmp_path / "artifact" / "model.safetensors").stat().st_size
    assert sum(tensor.numel() * tensor.element_size() for tensor in held) < 1.1 * stored
    assert sum(isinstance(module, Int4Linear) for module in model.modules()) == 4 * SHAPE.layers


def test_it_generates(tmp_path: Path) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact")
    runtime = open_runtime(tmp_path / "artifact", threads=2)
    assert len(generate(runtime, PROBE[0, :8], 6, ends=())) == 6
    assert "int4" in runtime.description or "gptqmodel" in runtime.description


@pytest.mark.parametrize(("out", "group_size", "bits"), [(24, 32, 4), (16, 16, 4), (16, 32, 8)])
def test_what_the_kernel_does_not_take_is_dequantized(out: int, group_size: int, bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    quantized = round_to_nearest(torch.randn(out, 64, generator=generator), bits, group_size)
    bias, inputs = torch.randn(out, generator=generator), torch.randn(3, 64, generator=generator)
    layer = linear_layer(quantized, bias)
    assert not isinstance(layer, Int4Linear)
    assert torch.equal(layer(inputs), torch.nn.functional.linear(inputs, quantized.dequantize(), bias))


def test_gptqmodel_is_not_given_weights_that_are_not_finite(tmp_path: Path) -> None:
    convert(source(tmp_path / "source"), tmp_path / "artifact", sweeps=0, correction="none")
    path = tmp_path / "artifact" / "model.safetensors"
    tensors = load_file(path)
    tensors["gpt_neox.layers.1.attention.dense.scales"][0, 3] = torch.inf
    save_file(tensors, path)
    with pytest.raises(ArtifactError, match=r"attention\.dense\.scales holds values that are not finite"):
        open_with_gptqmodel(tmp_path / "artifact")


@needs_gptqmodel
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"symmetric": False},
        {"activation_order": "dynamic", "group_size": 32},
        {"bits": 2, "group_size": 32},
        {"bits": 3, "group_size": 32, "symmetric": False, "activation_order": "dynamic"},
        {"bits": 8, "symmetric": False},
    ],
    ids=str,
)
def test_gptqmodel_gives_the_same_logits(tmp_path: Path, settings: dict[str, Any]) -> None:
    written = convert(source(tmp_path / "source"), tmp_path / "artifact", **settings)
    runtime = open_with_gptqmodel(tmp_path / "artifact")
    assert "gptqmodel" in runtime.description
    assert relative_error(runtime.logits(PROBE), written.logits) < KERNEL_TOLERANCE
