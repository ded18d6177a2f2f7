"""LAMBADA in OpenAI's form: how well a model predicts a passage's last word (arXiv 1606.06031; Radford et al., 2019).

Passages are split, tokenized, truncated and scored as in the task ``lambada_openai``, version 1, of EleutherAI's
lm-evaluation-harness 0.4.13, so that the numbers can be compared with published ones. The split is
:func:`pythia_quant.texts.lambada.split_passage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from pythia_quant.bench.subject import Subject
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.process import CALLER
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.config import read_config
from pythia_quant.model.tokenizer import TOKENIZER, open_tokenizer
from pythia_quant.records.results import Lambada
from pythia_quant.runtimes.protocol import Runtime
from pythia_quant.texts.lambada import Example, read_passages, split_passage


def predict(runtime: Runtime, example: Example, positions: int) -> Tensor:
    """Return a model's log-probabilities of every token at each position of an example's last word.

    Args:
        runtime: the model.
        example: the example. If its tokens without the last one exceed `positions`, its context is cut on the left.
        positions: the number of positions that the model has.

    Returns:
        fp32 [tokens of the word, vocabulary], nats.

    Raises:
        BenchmarkError: the word has no tokens, or more than the model has positions.
    """
    context, word = example
    if not 1 <= len(word) <= positions:
        raise BenchmarkError(
            f"a continuation has {len(word):,} tokens, the model {positions:,} positions",
            hint="leave this text out; a continuation has no token if the tokenizer merges it with what precedes it",
        )
    ids = torch.tensor((context + word)[-positions - 1 : -1])
    # Most words are one token. A prefill computes the head at the last position only: half of the work in small models.
    last = runtime.prefill(ids, len(ids))[None] if len(word) == 1 else runtime.logits(ids[None])[0, -len(word) :]
    return last.log_softmax(dim=-1)


def judge(predictions: Tensor, word: Sequence[int]) -> tuple[float, bool]:
    """Return a word's log-likelihood in nats, and whether greedy decoding gives the word.

    Args:
        predictions: log-probabilities, fp32 [tokens of the word, vocabulary].
        word: the tokens of the word.
    """
    tokens = torch.tensor(word)
    likelihood = predictions.gather(1, tokens[:, None]).sum()
    return float(likelihood), bool((predictions.argmax(dim=-1) == tokens).all())


def score_passages(
    runtime: Runtime,
    tokenizer: Tokenizer,
    passages: Sequence[str],
    architecture: Architecture,
    progress: Progress = SILENT,
) -> Lambada:
    """Score the last word of every passage, one passage at a time, so that the numbers depend on no batch size.

    Args:
        runtime: the model.
        tokenizer: the model's tokenizer.
        passages: the passages, each with at least two words.
        architecture: the shape of the model, and its special tokens.
        progress: receives how many passages are done.

    Raises:
        BenchmarkError: a last word has no tokens, or more than the model has positions.
    """
    likelihoods, hits = [], []
    for done, text in enumerate(passages, 1):
        example = split_passage(tokenizer, text, architecture.tokens.end or 0)
        likelihood, greedy = judge(predict(runtime, example, architecture.context), example.word)
        likelihoods.append(likelihood)
        hits.append(greedy)
        progress.step("passage", done, len(passages))
    return Lambada(log_likelihood=likelihoods, greedy=hits)


def measure_lambada(
    subject: dict[str, Any], file: str, examples: int | None, source: str, threads: int
) -> dict[str, Any]:
    """Score the last words of all passages with one row's model. This runs in a process of its own.

    Args:
        subject: the row's model, a :class:`~pythia_quant.bench.subject.Subject` as data.
        file: the path of the file of passages.
        examples: the number of passages to score, from the first; None for all.
        source: the source's folder, whose tokenizer is used.
        threads: the number of threads of the runtime.

    Returns:
        A :class:`~pythia_quant.records.results.Lambada` as data.

    Raises:
        ArtifactError: the model cannot be loaded.
        BenchmarkError: the model cannot run on the device, or see :func:`score_passages`.
        CorpusError: the file cannot be read.
        SourceError: the source's config.json or tokenizer cannot be read.
    """
    passages, shape = read_passages(Path(file))[:examples], read_config(Path(source) / "config.json")
    tokenizer = open_tokenizer(Path(source) / TOKENIZER, shape.vocabulary)
    runtime = Subject.model_validate(subject).open_runtime(threads)
    return score_passages(runtime, tokenizer, passages, shape, CALLER).model_dump()
