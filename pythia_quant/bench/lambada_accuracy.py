"""LAMBADA in OpenAI's form: how well a passage's last word is predicted (arXiv 1606.06031; Radford et al., 2019).

Passages are split, encoded, truncated and scored as the task ``lambada_openai``, version 1, of EleutherAI's
lm-evaluation-harness 0.4.13 does, so that the numbers can be compared with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from pythia_quant.bench.subject import Subject
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.process import CALLER
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.config import read_config
from pythia_quant.model.tokenizer import TOKENIZER, open_tokenizer, tokenize
from pythia_quant.records.results import Lambada
from pythia_quant.runtimes.protocol import Runtime
from pythia_quant.texts.lambada import read_passages


class Example(NamedTuple):
    """A passage as tokens: those of its last word, with the space before it, and those of all that precedes."""

    context: list[int]
    word: list[int]


def encode_passage(tokenizer: Tokenizer, text: str, end_of_text: int) -> Example:
    """Tokenize a passage; its last word is what follows its last space.

    Args:
        tokenizer: no special tokens are added.
        text: the passage.
        end_of_text: the token that stands for an empty context.
    """
    before, _, word = text.rpartition(" ")
    whole: list[int] = tokenize(tokenizer, f"{before} {word}").ids
    # White space before the last space is part of the continuation: tokens may span it.
    size = len(tokenize(tokenizer, before.rstrip()).ids)
    if size == 0 and whole[:1] != [end_of_text]:
        return Example([end_of_text], whole)
    return Example(whole[: size or 1], whole[size or 1 :])


def predict(runtime: Runtime, example: Example, positions: int) -> Tensor:
    """Return log-probabilities of the token at each position of an example's last word.

    Args:
        runtime: the model.
        example: its context loses tokens on the left when all but the last token exceed `positions`.
        positions: the model's context.

    Returns:
        fp32 [tokens of the word, vocabulary], nats.

    Raises:
        BenchmarkError: the word has no tokens of its own, or more than the model has positions.
    """
    context, word = example
    if not 1 <= len(word) <= positions:
        raise BenchmarkError(
            f"a continuation has {len(word):,} tokens, the model {positions:,} positions",
            hint="leave this text out; one without a token was merged with what precedes it",
        )
    ids = torch.tensor((context + word)[-positions - 1 : -1])
    # Most words are one token, and a prefill computes no other position's head: half of all the work in small models.
    last = runtime.prefill(ids, len(ids))[None] if len(word) == 1 else runtime.logits(ids[None])[0, -len(word) :]
    return last.log_softmax(dim=-1)


def judge(predictions: Tensor, word: Sequence[int]) -> tuple[float, bool]:
    """Return a word's log-likelihood, nats, and whether each of its tokens is the most likely one.

    Args:
        predictions: fp32 [tokens, vocabulary], log-probabilities.
        word: the tokens.
    """
    tokens = torch.tensor(word)
    likelihood = predictions.gather(1, tokens[:, None]).sum()
    return float(likelihood), bool((predictions.argmax(dim=-1) == tokens).all())


def measure_lambada(
    runtime: Runtime,
    tokenizer: Tokenizer,
    passages: Sequence[str],
    architecture: Architecture,
    progress: Progress = SILENT,
) -> Lambada:
    """Score the last word of every passage, one passage at a time: the numbers do not depend on a batch size.

    Raises:
        BenchmarkError: a last word has no tokens of its own, or more than the model has positions.
    """
    likelihoods, hits = [], []
    for done, text in enumerate(passages, 1):
        example = encode_passage(tokenizer, text, architecture.tokens.end or 0)
        likelihood, greedy = judge(predict(runtime, example, architecture.context), example.word)
        likelihoods.append(likelihood)
        hits.append(greedy)
        progress.step("passage", done, len(passages))
    return Lambada(log_likelihood=likelihoods, greedy=hits)


def measure_row(subject: dict[str, Any], file: str, examples: int | None, source: str, threads: int) -> dict[str, Any]:
    """Score a row's last words; runs in a process of its own.

    Args:
        subject: what to run, a :class:`~pythia_quant.bench.subject.Subject` as data.
        file: the passages.
        examples: how many of them, from the first; None for all.
        source: folder of the source, whose tokenizer is used.
        threads: for the runtime.

    Returns:
        A :class:`~pythia_quant.records.results.Lambada` as data.
    """
    passages, shape = read_passages(Path(file))[:examples], read_config(Path(source) / "config.json")
    tokenizer = open_tokenizer(Path(source) / TOKENIZER, shape.vocabulary)
    runtime = Subject.model_validate(subject).open_runtime(threads)
    return measure_lambada(runtime, tokenizer, passages, shape, CALLER).model_dump()
