"""Second moments of sampled gradients against Fisher's information computed without sampling."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from gptq_models import SHAPE, source
from tiny import random_weights, write_checkpoint
from torch import Tensor

from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import layer_forward, read_layer
from pythia_quant.model.weights import WeightFiles
from pythia_quant.quantizers import fisher


def test_moments_at_the_last_sum_are_those_of_all_tokens_weighted_by_their_probability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fisher, "DAMPING", 0.0)
    weights = source(tmp_path / "source")
    ids = torch.arange(4).repeat(3000)[:, None]  # windows of one token, so that no other token's gradient is added
    last = fisher.second_moments(weights, ids)[-1][-1][1]

    hidden = F.embedding(torch.arange(4)[:, None], weights.read(EMBEDDING).float())
    for index in range(SHAPE.layers):
        layer = read_layer(weights, index)
        equalize(SHAPE, layer)
        hidden = layer_forward(SHAPE, layer, hidden)
    gain, bias = (weights.read(f"{FINAL_NORM}.{part}").float() for part in ("weight", "bias"))
    head = weights.read(HEAD).float()

    def logits(state: Tensor) -> Tensor:
        return F.layer_norm(state, (SHAPE.width,), gain, bias, SHAPE.norm_epsilon) @ head.T

    expected = torch.zeros(SHAPE.width, SHAPE.width)
    for state in hidden[:, 0]:
        by_state, share = torch.func.jacrev(logits)(state), logits(state).softmax(0)
        expected += 3000 * by_state.T @ (torch.diag(share) - torch.outer(share, share)) @ by_state
    assert torch.linalg.matrix_norm(last - expected) < 0.1 * torch.linalg.matrix_norm(expected)


def test_a_model_that_was_run_for_a_reference_before_still_has_gradients(tmp_path: Path) -> None:
    weights = source(tmp_path / "source")
    with torch.inference_mode():
        layer_forward(SHAPE, read_layer(weights, 0), torch.zeros(1, 13, SHAPE.width))
    assert fisher.second_moments(weights, torch.arange(13)[None])


@pytest.mark.parametrize("parallel", [True, False])
def test_every_update_of_every_layer_has_its_moments(tmp_path: Path, *, parallel: bool) -> None:
    shape = replace(SHAPE, parallel_residual=parallel)
    write_checkpoint(tmp_path, shape, random_weights(shape))
    weights = WeightFiles([tmp_path / "model.safetensors"], shape)
    found = fisher.second_moments(weights, torch.arange(32).view(2, 16))
    assert len(found) == shape.layers
    for layer in found:
        sizes = [(len(inner), len(outer)) for inner, outer in layer]
        mlp, width = shape.mlp_width, shape.width
        assert sizes == ([(3 * width + mlp, width)] if parallel else [(3 * width, width), (mlp, width)])
        assert all(torch.linalg.eigvalsh(each).min() > 0 for pair in layer for each in pair)
