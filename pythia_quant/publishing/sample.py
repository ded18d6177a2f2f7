"""A sample of an artifact's output for its card: what the first command there prints."""

from __future__ import annotations

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.artifacts.generate import continue_text
from pythia_quant.artifacts.pieces import Wish
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.publishing.clients import NEW_TOKENS, PROMPT

_MOST_BYTES = 500_000_000
"""The bytes of the largest weights that are loaded for a sample, which takes seconds."""
_MOST_LINES = 6
"""The lines of a sample that a card shows: how good the artifact is stands below, on the first screen."""


def sample_output(artifact: Artifact) -> str:
    """Run an artifact, and return the prompt of the card with the artifact's greedy continuation.

    Returns:
        The text, of which only the first lines are shown. It is empty if the artifact is large, or if it cannot run
        here: its runtime is not installed, or its context is too short. A card does without a sample.
    """
    if artifact.manifest.bytes_on_disk > _MOST_BYTES:
        return ""
    try:
        text = PROMPT + continue_text(artifact, PROMPT, Wish(NEW_TOKENS)).text
    except PythiaQuantError:
        return ""
    lines = text.split("\n")
    return "\n".join([*lines[:_MOST_LINES], *(["…"] if len(lines) > _MOST_LINES else [])])
