"""The protocols in a result file: the exact way each kind of number was measured."""

from __future__ import annotations

from typing import Literal

from pythia_quant.records.manifest import Record


class Protocol(Record):
    """The exact way drift was measured; see docs/protocols.md for each name and version.

    Attributes:
        context: the tokens of a window.
        windows: the number of windows that were measured: all windows of the text, or some spread evenly over it. In
            version 1 they are the first ones.
        text_windows: the number of windows in the whole text; None in version 1.
    """

    name: Literal["windows"] = "windows"
    version: Literal[1, 2] = 2
    context: int
    windows: int
    text_windows: int | None = None


class LatencyProtocol(Record):
    """The exact way speed was measured.

    Attributes:
        prompts: the lengths of the prompts that are prefilled, in tokens.
        contexts: the lengths of the contexts after which tokens are decoded, in tokens.
        decoded: the tokens that a pass decodes after each context.
        repetitions: the most prefills of each prompt in a pass.
        warm_up: the first repetitions, and the first decoded tokens, that are not counted.
        passes: the passes over all lengths in a process; lengths that take long are measured in the first pass only.
        rounds: the rounds; each round measures every row once, in a fresh process.
    """

    name: Literal["latency"] = "latency"
    version: Literal[1, 2] = 2
    prompts: list[int]
    contexts: list[int]
    decoded: int
    repetitions: int
    warm_up: int
    passes: int = 1
    rounds: int

    @property
    def prompt(self) -> int:
        """The length of the prompt that tables show: the one nearest to 512 tokens."""
        return min(self.prompts, key=lambda tokens: abs(tokens - 512))

    @property
    def context(self) -> int:
        """The length of the context that tables show: the one nearest to 128 tokens."""
        return min(self.contexts, key=lambda tokens: abs(tokens - 128))


class LambadaProtocol(Record):
    """LAMBADA in OpenAI's form, as lm-evaluation-harness defines the task ``lambada_openai``, version 1.

    Attributes:
        file: the name of the file that holds the passages.
        sha256: the hex SHA-256 of this file.
        examples: the number of passages that were measured, from the first.
    """

    name: Literal["lambada-openai"] = "lambada-openai"
    version: Literal[1] = 1
    file: str
    sha256: str
    examples: int
