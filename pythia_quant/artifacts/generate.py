"""Continue a text with an artifact, and refuse tokens that it cannot take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.artifacts.generator import Generator
from pythia_quant.artifacts.pieces import Wish
from pythia_quant.core.errors import ArgumentError
from pythia_quant.model.generation_config import read_model


class Continuation(BaseModel):
    """The generated text with its tokens, its time and the runtime."""

    prompt: str
    text: str
    prompt_tokens: list[int]
    tokens: list[int]
    seconds: float
    runtime: str


def continue_text(artifact: Artifact, prompt: str, wish: Wish) -> Continuation:
    """Continue `prompt`.

    Raises:
        ArtifactError: the artifact is damaged, or prompt and continuation exceed the model's context.
        BenchmarkError: logits are not finite.
        CorpusError: the prompt is not UTF-8, or it is empty and the model has no token to begin with.
    """
    generator = Generator(artifact)
    ids = generator.encode(prompt)
    started = time.perf_counter()
    pieces = list(generator.stream(ids, wish))
    return Continuation(
        prompt=prompt,
        text="".join(piece.text for piece in pieces),
        prompt_tokens=ids,
        tokens=[one.token for piece in pieces for one in piece.tokens],
        seconds=time.perf_counter() - started,
        runtime=generator.runtime.description,
    )


def stream_text(artifact: Artifact, prompt: str, wish: Wish) -> Iterator[str]:
    """Return the parts of a continuation as they are made; what can be refused is refused at once.

    Raises:
        ArtifactError: the artifact is damaged, or prompt and continuation exceed the model's context.
        BenchmarkError: logits are not finite, while it is read.
        CorpusError: the prompt is not UTF-8, or it is empty and the model has no token to begin with.
    """
    generator = Generator(artifact)
    ids = generator.encode(prompt)
    generator.check_room(ids, wish.count)
    return (piece.text for piece in generator.stream(ids, wish) if piece.text)


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
