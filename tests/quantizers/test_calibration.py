"""What a layer's linear layers see, against the model run in transformers with hooks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import TINY, random_weights, write_checkpoint
from torch import Tensor
from transformers import GPTNeoXForCausalLM

from pythia_quant.model.architecture import EMBEDDING
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import attend, expand, layer_forward, read_layer
from pythia_quant.model.weights import WeightFiles
from pythia_quant.quantizers import calibration
from pythia_quant.quantizers.calibration import Calibration, Moments

IDS = torch.randint(TINY.vocabulary, (5, 32), generator=torch.Generator().manual_seed(0))

UPDATE = TINY.updates[0]


def equalized(reader: WeightFiles, index: int) -> dict[str, Tensor]:
    layer = read_layer(reader, index)
    equalize(TINY, layer)
    return layer


def states(tmp_path: Path, reader: WeightFiles, *, original: bool = True) -> Calibration:
    """Return the windows before the first layer."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    table = reader.read(EMBEDDING)
    calibration.begin(before, IDS, table, table if original else None)
    return Calibration(TINY, before, after)


@pytest.fixture
def reader(tmp_path: Path) -> WeightFiles:
    write_checkpoint(tmp_path / "source", TINY, random_weights(TINY))
    return WeightFiles([tmp_path / "source" / "model.safetensors"], TINY)


def expected(inputs: Tensor, errors: Tensor | None = None) -> Moments:
    moments = Moments(inputs.shape[-1], 0 if errors is None else errors.shape[-1])
    moments.add(inputs.float(), errors)
    return moments


def assert_alike(found: Moments, wanted: Moments) -> None:
    """Compare to a relative 0.5 %: states are in fp16, and the layer's products may be in bf16."""
    hessian = wanted.hessian()
    assert (found.hessian() - hessian).norm() < 5e-3 * hessian.norm()
    assert (found.mean - wanted.mean).norm() < 5e-3 * wanted.mean.norm()
    assert found.count == wanted.count


@torch.no_grad()
def test_inputs_are_those_that_transformers_sees(reader: WeightFiles, tmp_path: Path) -> None:
    """Of a layer that is written as a checkpoint once it is equalized, so that hooks see the same inputs."""
    weights = {name: reader.read(name).float() for name in TINY.tensor_shapes()}
    layer = equalized(reader, 0)
    weights |= {f"gpt_neox.layers.0.{name}": tensor.clone() for name, tensor in layer.items()}
    model = GPTNeoXForCausalLM.from_pretrained(write_checkpoint(tmp_path / "equal", TINY, weights), dtype=torch.float32)
    seen: dict[str, Tensor] = {}
    first = model.gpt_neox.layers[0]
    for name in ("attention.query_key_value", "mlp.dense_h_to_4h", "attention.dense", "mlp.dense_4h_to_h"):
        first.get_submodule(name).register_forward_pre_hook(
            lambda _module, inputs, name=name: seen.update({name: inputs[0]})
        )
    model(IDS)
    windows = states(tmp_path, reader)
    for name in ("attention.query_key_value", "mlp.dense_h_to_4h"):
        assert_alike(windows.normalized("input_layernorm", layer, layer, centered=True), expected(seen[name]))
    both = torch.cat([seen["attention.dense"], seen["mlp.dense_4h_to_h"]], dim=-1)
    assert_alike(windows.outer(UPDATE, layer, layer, centered=True), expected(both))


@torch.no_grad()
def test_errors_are_what_the_quantized_model_lacks(reader: WeightFiles, tmp_path: Path) -> None:
    layer = equalized(reader, 0)
    generator = torch.Generator().manual_seed(0)
    worse = {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator) * tensor.abs().mean()
        for name, tensor in layer.items()
    }
    windows = states(tmp_path, reader)
    outer = windows.outer(UPDATE, layer, worse, centered=True)
    hidden = torch.nn.functional.embedding(IDS, reader.read(EMBEDDING)).float()
    kept = {name: layer[name] for name in layer if "dense.weight" in name or "dense.bias" in name or "4h_to_h" in name}
    errors = layer_forward(TINY, layer, hidden) - layer_forward(TINY, worse | kept, hidden)
    wanted = expected(torch.cat([attend(TINY, worse, hidden), expand(TINY, worse, hidden)], dim=-1), errors)
    for found, exact in ((outer.mean_error, wanted.mean_error), (outer.cross(), wanted.cross())):
        assert (found - exact).norm() < 0.02 * exact.norm()  # the layer's products may be in bf16

    windows.advance(UPDATE, worse)
    following = Calibration(TINY, tmp_path / "after", tmp_path / "before")
    inner = following.normalized("input_layernorm", equalized(reader, 1), equalized(reader, 1), centered=True)
    after, original = (torch.nn.functional.layer_norm(layer_forward(TINY, w, hidden), (64,)) for w in (worse, layer))
    gain = equalized(reader, 1)["input_layernorm.weight"]
    exact = ((original - after) * gain).mean((0, 1))
    assert (inner.mean_error - exact).norm() < 0.02 * exact.norm()


def test_without_the_original_there_are_no_errors(reader: WeightFiles, tmp_path: Path) -> None:
    windows, layer = states(tmp_path, reader, original=False), equalized(reader, 0)
    assert windows.normalized("input_layernorm", layer, layer, centered=False).cross().shape == (0, 64)
    assert windows.outer(UPDATE, layer, layer, centered=False).cross().shape == (0, 320)
    windows.advance(UPDATE, layer)
    assert [path.name for path in (tmp_path / "after").iterdir()] == ["quantized.npy"]
