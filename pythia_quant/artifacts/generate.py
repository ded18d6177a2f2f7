"""Continue a text with an artifact."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from pydantic import BaseModel

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.core import machine
from pythia_quant.core.errors import ArtifactError, CorpusError
from pythia_quant.formats.table import format_of
from pythia_quant.model.architecture import SpecialTokens
from pythia_quant.model.generation_config import read_model
from pythia_quant.model.tokenizer import TOKENIZER, open_tokenizer, tokenize
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
    folder: Path, prompt: str, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
) -> Continuation:
    """Continue `prompt`, greedily at temperature 0; see :func:`pythia_quant.runtimes.protocol.generate`.

    Raises:
        ArtifactError: this is no artifact, its tokenizer is damaged, or prompt and continuation exceed the model's
            context.
        CorpusError: the prompt is not UTF-8, or it is empty and the model has no token to begin with.
    """
    artifact = open_artifact(folder)
    architecture = read_model(folder, quantized=True)
    tokenizer = open_tokenizer(folder / TOKENIZER, architecture.vocabulary, ArtifactError)
    ids: list[int] = tokenize(tokenizer, prompt).ids or _start(architecture.tokens)
    if len(ids) + max_new_tokens > architecture.context:
        raise ArtifactError(
            f"the prompt's {len(ids)} tokens and {max_new_tokens} new ones exceed the context, {architecture.context}",
            hint="shorten the prompt, or lower --max-new-tokens",
        )
    runtime = format_of(artifact.settings).open_runtime(folder, machine.cores())
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
