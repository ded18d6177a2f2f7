"""Prompts as tokens of an artifact's model, which need not be loaded for it."""

from __future__ import annotations

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.core.errors import ArtifactError, CorpusError
from pythia_quant.model.architecture import SpecialTokens
from pythia_quant.model.generation_config import read_model
from pythia_quant.model.tokenizer import tokenize


class Prompts:
    """The tokenizer of an artifact, and the room that its model has.

    Args:
        artifact: the artifact.

    Attributes:
        architecture: the model's shape.
        tokenizer: the artifact's tokenizer.

    Raises:
        ArtifactError: the artifact is damaged.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.architecture = read_model(artifact.folder, quantized=True)
        self.tokenizer = artifact.tokenizer

    def encode(self, prompt: str) -> list[int]:
        """Return a prompt's tokens; an empty prompt is the token that begins a text.

        Raises:
            CorpusError: the prompt is not UTF-8, or it is empty and the model has no token to begin with.
        """
        return tokenize(self.tokenizer, prompt).ids or _start(self.architecture.tokens)

    def check_room(self, ids: list[int], count: int) -> None:
        """Refuse a continuation that does not fit the model's context.

        Raises:
            ArtifactError: it does not.
        """
        context = self.architecture.context
        if len(ids) + count > context:
            raise ArtifactError(
                f"the prompt's {len(ids)} tokens and {count} new ones exceed the context, {context}",
                hint="shorten the prompt, or ask for fewer tokens (--max-new-tokens)",
            )


def _start(tokens: SpecialTokens) -> list[int]:
    """Return the token that stands for an empty prompt."""
    start = tokens.end if tokens.begin is None else tokens.begin
    if start is None:
        raise CorpusError("is empty, and the model has no token that begins a text", where="the prompt")
    return [start]
