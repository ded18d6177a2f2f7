import math
from pathlib import Path

import numpy as np
import torch
from tiny import TINY, write_checkpoint
from torch import Tensor
from transformers import GPTNeoXForCausalLM

from pythia_quant.bench.drift import make_reference, measure_drift, reader_logits, reference_nll
from pythia_quant.weights import WeightFiles

GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(7, (3, 300), generator=GENERATOR)
P, Q = torch.randn(3, 300, 7, generator=GENERATOR), torch.randn(3, 300, 7, generator=GENERATOR)


def test_drift_equals_a_plain_computation_in_numpy() -> None:
    drift = measure_drift(IDS, lambda i: P[i], lambda i: Q[i])
    p, q = (x.double().numpy()[:, :-1] for x in (P, Q))
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (p, q))
    targets = IDS.numpy()[:, 1:]
    nll = -np.log(np.take_along_axis(q, targets[..., None], -1)[..., 0]).mean(1)
    np.testing.assert_allclose(drift.nll, nll, rtol=1e-5)
    np.testing.assert_allclose(drift.kl, (p * np.log(p / q)).sum(-1).mean(1), rtol=1e-5)
    np.testing.assert_allclose(drift.top1, (p.argmax(-1) == q.argmax(-1)).mean(1))


def test_a_model_does_not_drift_from_itself_and_a_uniform_one_has_its_vocabulary_as_perplexity() -> None:
    same = measure_drift(IDS, lambda i: P[i], lambda i: P[i])
    assert same.kl == [0.0] * 3
    assert same.top1 == [1.0] * 3
    uniform = measure_drift(IDS, lambda i: P[i], lambda i: torch.zeros_like(P[i]))
    np.testing.assert_allclose(np.exp(uniform.nll), 7, rtol=1e-6)


def test_positions_that_are_not_finite_are_counted_and_give_no_numbers() -> None:
    def broken(window: int) -> Tensor:
        logits = Q[window].clone()
        if window == 1:
            logits[3:5, 0] = math.nan
            logits[298, 2] = math.inf
        return logits

    drift = measure_drift(IDS, lambda i: P[i], broken)
    assert (drift.non_finite, drift.nll, drift.kl) == (3, [], [])


def test_perplexity_of_an_unquantized_model_equals_twelve_lines_of_transformers(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    ids = torch.randint(TINY.vocabulary, (4, TINY.context), generator=torch.Generator().manual_seed(1))
    reader = WeightFiles([folder / "model.safetensors"], TINY)
    reference = make_reference(reader, ids, tmp_path)
    ours = math.exp(sum(reference_nll(reference.ids(), reference.logits())) / 4)

    model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32)
    total, count = 0.0, 0
    for row in ids:
        with torch.no_grad():
            logits = model(row[None]).logits[0, :-1]
        picked = torch.log_softmax(logits.double(), -1)[torch.arange(len(row) - 1), row[1:]]
        total -= picked.sum().item()
        count += len(row) - 1
    assert abs(math.exp(total / count) / ours - 1) < 1e-6
    weights = measure_drift(reference.ids(), reference.logits(), reader_logits(reader, ids))
    assert max(weights.kl) < 1e-9
