"""What a prompt gives does not depend on the prompts before it, and what they have in common is not computed again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from gguf_models import write_gguf
from tiny import TINY, random_weights

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.formats.gguf.loaded import Model
from pythia_quant.formats.gguf.runtime import LlamaCppRuntime
from pythia_quant.runtimes import sequence
from pythia_quant.runtimes.protocol import Runtime
from pythia_quant.runtimes.sequence import Resumable, Sequence

CONTEXT = 32


@pytest.fixture(scope="module", params=["bnb-nf4", "gptq-int4", "onnx-int8", "gguf"])
def runtime(request: pytest.FixtureRequest, converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    if request.param == "gguf":
        file = write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", TINY, random_weights(TINY))
        return LlamaCppRuntime(Model(file), 1, "F32 weights")
    return open_artifact(converted / "out/tiny/local" / request.param).runtime


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "PIECE", 8)


def begun(one: Sequence, ids: list[int]) -> list[torch.Tensor]:
    """Return the logits of a prompt, and of two tokens after it."""
    return [one.begin(ids, len(ids) + 2), one.step(5), one.step(7)]


def test_prompts_after_others_give_the_same_bits(runtime: Runtime) -> None:
    assert isinstance(runtime, Resumable)
    chance = random.Random(0)
    long = [chance.randrange(257) for _ in range(30)]
    prompts = [long[:20], long[:20], long[:27], long[:9], [*long[:10], *range(8)], long[:1], long, long[:17]]
    expected = [begun(Sequence(runtime, CONTEXT), ids) for ids in prompts]
    kept, reused = Sequence(runtime, CONTEXT), []
    for ids, logits in zip(prompts, expected, strict=True):
        assert all(torch.equal(*pair) for pair in zip(begun(kept, ids), logits, strict=True))
        reused.append(kept.reused)
    assert reused == [0, 20, 16, 8, 8, 0, 0, 16]


def test_pieces_give_the_logits_of_the_whole(runtime: Runtime) -> None:
    ids = list(range(20))
    expected = runtime.logits(torch.tensor([ids]))[0]
    found = Sequence(runtime, CONTEXT).begin(ids, CONTEXT)
    assert float((found - expected[-1]).abs().max()) < 0.05 * float(expected.std())


def test_more_than_the_context_is_refused_and_the_next_prompt_is_right(runtime: Runtime) -> None:
    one = Sequence(runtime, CONTEXT)
    expected = one.begin([1, 2, 3], 10).clone()
    with pytest.raises(BenchmarkError, match="capacity of 32"):
        one.begin([1, 2, 3], 33)
    with pytest.raises(BenchmarkError, match="capacity of 2 "):
        one.begin([1, 2, 3], 2)
    assert torch.equal(one.begin([1, 2, 3], 10), expected)


def test_tokens_beyond_the_capacity_are_not_counted(runtime: Runtime) -> None:
    assert isinstance(runtime, Resumable)
    runtime.prefill(torch.arange(5), 8)
    expected = runtime.extend(torch.tensor([6, 7])).clone()
    with pytest.raises(BenchmarkError, match="capacity of 8"):
        runtime.extend(torch.arange(4))
    runtime.rewind(5)
    assert torch.equal(runtime.extend(torch.tensor([6, 7])), expected)
