"""One protocol for every way to run a model: logits of many tokens to measure, prefill and step to generate."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.model.forward import parts


class Runtime(Protocol):
    """A loaded model. Batch size 1 for generation; equal-length rows to measure.

    Attributes:
        description: library, kernel and dtype, as printed beside every number measured with it.
    """

    description: str

    def logits(self, ids: Tensor) -> Tensor:
        """Return logits for all positions: int64 [rows, tokens] in, fp32 [rows, tokens, vocabulary] out."""
        ...

    def prefill(self, ids: Tensor, capacity: int) -> Tensor:
        """Start over with a prompt, int64 [tokens].

        Args:
            ids: the prompt.
            capacity: how many tokens, prompt included, will be fed at most before the next prefill.

        Returns:
            fp32 [vocabulary], the logits of the last position.
        """
        ...

    def step(self, token: int) -> Tensor:
        """Feed one more token; return fp32 [vocabulary].

        Raises:
            BenchmarkError: the last prefill's capacity is used up.
        """
        ...


def check_capacity(tokens: int, capacity: int) -> None:
    """Refuse to feed a sequence of `tokens` where `capacity` was asked for: there is no room for its keys and values.

    Raises:
        BenchmarkError: it does not fit.
    """
    if tokens > capacity:
        raise BenchmarkError(
            f"token {tokens} does not fit: a capacity of {capacity} tokens was asked for",
            hint="prefill with a larger capacity",
        )


def generate(
    runtime: Runtime, prompt: Tensor, count: int, ends: Collection[int], temperature: float = 0.0, seed: int = 0
) -> list[int]:
    """Continue a prompt.

    Args:
        runtime: the model.
        prompt: int64 [tokens], at least one.
        count: the most tokens to add.
        ends: the tokens that end the text; none to always add `count`.
        temperature: 0 takes the most likely token, above 0 samples from the softmax of logits / temperature.
        seed: of the sampling.

    Returns:
        The new tokens, without the one that ended the text.

    Raises:
        BenchmarkError: logits are not finite, so that no token is the most likely one.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = runtime.prefill(prompt, len(prompt) + count)
    added: list[int] = []
    while True:
        if not torch.isfinite(logits).all():
            raise BenchmarkError(
                f"after {len(prompt) + len(added)} tokens logits are not finite: this would be no text",
                where=runtime.description,
                hint="the weights are damaged, or too large for the dtype they are run in",
            )
        if temperature > 0:
            token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
        else:
            token = int(logits.argmax())
        if token in ends:
            return added
        added.append(token)
        if len(added) == count:
            return added
        logits = runtime.step(token)


Stage = Callable[[Tensor], Tensor]


@runtime_checkable
class Layered(Protocol):
    """A model in stages: each is loaded when asked for, and freed when its result is dropped.

    Attributes:
        description: library, kernel and dtype, as printed beside every number measured with it.
        width: of the hidden states.
        dtype: of the hidden states between stages.
        stages: how many there are between embedding and head.
    """

    description: str
    width: int
    dtype: torch.dtype
    stages: int

    def embedding(self) -> Stage:
        """Return what turns token ids, int64 [windows, tokens], into hidden states [windows, tokens, width]."""
        ...

    def stage(self, index: int) -> Stage:
        """Return what turns hidden states into those after one more stage, [windows, tokens, width]."""
        ...

    def head(self) -> Stage:
        """Return what turns the last hidden states, [tokens, width], into logits, fp32 [tokens, vocabulary]."""
        ...


@dataclass(frozen=True)
class States:
    """Hidden states in a file, [windows, tokens, width], read and written by windows.

    They are read, not mapped: what is mapped counts as this process's memory, and would grow with the text.
    """

    path: Path
    windows: int
    tokens: int
    width: int
    dtype: torch.dtype

    def read(self, rows: slice) -> Tensor:
        """Return the windows `rows`, [windows, tokens, width].

        Raises:
            BenchmarkError: the file is shorter.
        """
        start, stop, _ = rows.indices(self.windows)
        buffer = bytearray((stop - start) * self._window_bytes)
        with self.path.open("rb") as file:
            file.seek(start * self._window_bytes)
            if file.readinto(buffer) != len(buffer):
                raise BenchmarkError("is cut short", where=str(self.path), hint="remove its folder and run again")
        return torch.frombuffer(buffer, dtype=self.dtype).view(stop - start, self.tokens, self.width)

    def write(self, rows: slice, states: Tensor) -> None:
        """Write the windows `rows`, [windows, tokens, width]."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.seek(rows.indices(self.windows)[0] * self._window_bytes)
            file.write(states.to(self.dtype).contiguous().view(torch.uint8).numpy().data)

    @property
    def _window_bytes(self) -> int:
        return self.tokens * self.width * self.dtype.itemsize


@torch.inference_mode()
def final_states(model: Layered, ids: Tensor, folder: Path, progress: Progress = SILENT, what: str = "layer") -> States:
    """Run all windows through a model, up to its head.

    A folder that an interrupted call left is gone on with at the stage it had reached.

    Args:
        model: in stages.
        ids: int64 [windows, tokens].
        folder: to hold the states, of this model and these windows only; twice their size while it runs.
        progress: told how many stages are done, and of how many.
        what: what a stage is called in the report.
    """

    windows, tokens = ids.shape

    def states(name: str) -> States:
        return States(folder / name, windows, tokens, model.width, model.dtype)

    def save(done: int, run: Callable[[slice], Tensor]) -> None:
        partial = states("partial")
        for rows in parts(windows, tokens):
            partial.write(rows, run(rows))
        partial.path.rename(folder / f"states-{done}")

    done = next((number for number in range(model.stages, -1, -1) if (folder / f"states-{number}").exists()), None)
    if done is None:
        embed = model.embedding()
        save(0, lambda rows: embed(ids[rows]))
        del embed
        done = 0
    for index in range(done, model.stages):
        progress.step(what, index, model.stages)
        before, stage = states(f"states-{index}"), model.stage(index)
        save(index + 1, lambda rows, before=before, stage=stage: stage(before.read(rows)))  # type: ignore[misc]
        del stage
        before.path.unlink()
    return states(f"states-{model.stages}")


@torch.inference_mode()
def logits(model: Layered, ids: Tensor) -> Tensor:
    """Return the logits of a few windows: int64 [windows, tokens] in, fp32 [windows, tokens, vocabulary] out."""
    states = model.embedding()(ids)
    for index in range(model.stages):
        states = model.stage(index)(states)
    head = model.head()
    return torch.stack([head(window).clone() for window in states])  # a head may use one buffer for all
