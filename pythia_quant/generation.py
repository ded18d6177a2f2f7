"""Continue a text with an artifact."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from pydantic import BaseModel
from tokenizers import Tokenizer

from pythia_quant import resources
from pythia_quant.artifact import open_artifact
from pythia_quant.config_file import read_config
from pythia_quant.errors import ArtifactError
from pythia_quant.formats import format_of, load
from pythia_quant.runtimes import Runtime, generate


class Continuation(BaseModel):
    """What was generated, and how."""

    prompt: str
    text: str
    prompt_tokens: list[int]
    tokens: list[int]
    seconds: float
    runtime: str


def continue_text(
    folder: Path, prompt: str, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
) -> Continuation:
    """Continue `prompt`, greedily at temperature 0; see :func:`pythia_quant.runtimes.generate`.

    Raises:
        ArtifactError: this is no artifact, or prompt and continuation exceed the model's context.
    """
    artifact = open_artifact(folder)
    architecture = read_config(folder / "config.json", quantized=True)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False).ids or [architecture.tokens.begin or 0]
    if len(ids) + max_new_tokens > architecture.context:
        raise ArtifactError(
            f"the prompt's {len(ids)} tokens and {max_new_tokens} new ones exceed the context, {architecture.context}",
            hint="shorten the prompt, or lower --max-new-tokens",
        )
    runtime: Runtime = load(format_of(artifact.settings).run)(folder, resources.cores())
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
