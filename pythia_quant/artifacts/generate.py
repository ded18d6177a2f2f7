"""Continue a text with an artifact, and refuse tokens that it cannot take."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.core.errors import ArgumentError, ArtifactError, CorpusError
from pythia_quant.model.architecture import SpecialTokens
from pythia_quant.model.generation_config import read_model
from pythia_quant.model.tokenizer import tokenize
from pythia_quant.runtimes.protocol import generate


class Continuation(BaseModel):
    """The generated text with its tokens, its time and the runtime."""

    prompt: str
    text: str
    prompt_tokens: list[int]
    tokens: list[int]
    seconds: float
    runtime: str


def continue_text(
    artifact: Artifact, prompt: str, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
) -> Continuation:
    """Continue `prompt`, greedily at temperature 0; see :func:`pythia_quant.runtimes.protocol.generate`.

    Raises:
        ArtifactError: the artifact is damaged, or prompt and continuation exceed the model's context.
        BenchmarkError: logits are not finite.
        CorpusError: the prompt is not UTF-8, or it is empty and the model has no token to begin with.
    """
    architecture = read_model(artifact.folder, quantized=True)
    tokenizer = artifact.tokenizer
    ids: list[int] = tokenize(tokenizer, prompt).ids or _start(architecture.tokens)
    if len(ids) + max_new_tokens > architecture.context:
        raise ArtifactError(
            f"the prompt's {len(ids)} tokens and {max_new_tokens} new ones exceed the context, {architecture.context}",
            hint="shorten the prompt, or ask for fewer tokens (--max-new-tokens)",
        )
    runtime = artifact.runtime
    started = time.perf_counter()
    tokens = generate(runtime, torch.tensor(ids), max_new_tokens, architecture.tokens.ends, temperature, seed)
    return Continuation(
        prompt=prompt,
        text=tokenizer.decode(tokens),
        prompt_tokens=ids,
        tokens=tokens,
        seconds=time.perf_counter() - started,
        runtime=runtime.description,
    )


def _start(tokens: SpecialTokens) -> list[int]:
    """Return the token that stands for an empty prompt."""
    start = tokens.end if tokens.begin is None else tokens.begin
    if start is None:
        raise CorpusError("is empty, and the model has no token that begins a text", where="the prompt")
    return [start]


def check_ids(ids: Tensor, folder: Path) -> None:
    """Refuse tokens that an artifact's model cannot take.

    Args:
        ids: what should be int64 [windows, tokens].
        folder: the artifact's folder.

    Raises:
        ArgumentError: they are of another shape or dtype, too long, or outside the vocabulary.
        ArtifactError: the artifact's configuration is damaged.
    """
    architecture = read_model(folder, quantized=True)
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.dim() != 2 or not ids.numel():
        what = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
        hint = "artifact.encode(text) makes such a tensor of a text"
        raise ArgumentError(f"is {what}; a tensor of int64 [windows, tokens] is needed", where="ids", hint=hint)
    if ids.shape[1] > architecture.context:
        what = f"has {ids.shape[1]:,} tokens a window, and the model's context is {architecture.context:,}"
        raise ArgumentError(what, where="ids", hint="give shorter windows")
    least, most = int(ids.min()), int(ids.max())
    if least < 0 or most >= architecture.vocabulary:
        what = f"has {least if least < 0 else most}; the model's tokens are 0 to {architecture.vocabulary - 1:,}"
        raise ArgumentError(what, where="ids", hint="artifact.encode(text) uses the model's own tokenizer")
