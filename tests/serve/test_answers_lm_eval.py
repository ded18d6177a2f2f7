"""lm_eval's own client of OpenAI's API gets the likelihoods that our integration of lm_eval gives."""

from __future__ import annotations

from pathlib import Path
from string import ascii_letters
from typing import Any

import numpy as np
import pytest
from serving import running

import pythia_quant as pq


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    kind = "loglikelihood" if isinstance(arguments[0][1], str) else "generate_until"
    return [Instance(kind, {}, at, at) for at in arguments]


def test_local_completions_scores_and_generates_as_our_integration_does(
    converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from pythia_quant.integrations.lm_eval import PythiaQuantLM

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = converted / "out/tiny/local/onnx-fp32"
    pairs = [("an even", " eval"), ("a", "b"), ("", "of two texts"), ("many bytes é", "\n"), ("an even", " x")]
    stops = {"until": ["\x00"], "max_gen_toks": 9, "do_sample": False}
    ours = PythiaQuantLM(artifact=str(folder), threads=1)
    expected = ours.loglikelihood(requests(*pairs), disable_tqdm=True)
    artifact = pq.load(folder)
    likeliest = ((context, artifact.generate(context, 1)) for context in ascii_letters)
    greedy = next(pair for pair in likeliest if pair[1].isascii() and pair[1])  # others are half a character
    with running(folder) as server:
        theirs = LocalCompletionsAPI(
            base_url=f"{server.url}/completions", model=str(folder), tokenizer_backend="huggingface", max_length=32
        )
        found = theirs.loglikelihood(requests(*pairs, greedy), disable_tqdm=True)
        texts = theirs.generate_until(requests(("an even", dict(stops))), disable_tqdm=True)
    np.testing.assert_allclose([one for one, _ in found[:-1]], [one for one, _ in expected], rtol=1e-5)
    assert [greedily for _, greedily in found] == [*(greedily for _, greedily in expected), True]
    assert texts == ours.generate_until(requests(("an even", dict(stops))), disable_tqdm=True)
