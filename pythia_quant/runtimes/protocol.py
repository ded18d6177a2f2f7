"""The protocol that every runtime follows: logits of whole windows to measure, prefill and step to generate."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.model.forward import parts
from pythia_quant.runtimes.decode import decode
from pythia_quant.runtimes.sampling import Sampler, Sampling


class Runtime(Protocol):
    """A model in memory that computes logits. It generates one sequence at a time.

    Attributes:
        description: the library, the kernel and the dtype, which tables show beside every number.
    """

    description: str

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits of all positions, fp32 [windows, tokens, vocabulary], of ids, int64 [windows, tokens]."""
        ...

    def prefill(self, ids: Tensor, capacity: int) -> Tensor:
        """Begin a new sequence with a prompt.

        Args:
            ids: the prompt, int64 [tokens].
            capacity: the most tokens that the sequence will have, those of the prompt included.

        Returns:
            The logits of the last position, fp32 [vocabulary].

        Raises:
            BenchmarkError: the capacity exceeds the model's context, or the prompt exceeds the capacity.
        """
        ...

    def step(self, token: int) -> Tensor:
        """Append one token to the sequence; return the logits of its position, fp32 [vocabulary].

        Raises:
            BenchmarkError: there was no prefill, or the sequence already has as many tokens as its capacity.
        """
        ...


def check_capacity(tokens: int, capacity: int) -> None:
    """Refuse a sequence of `tokens` if its prefill asked for a smaller `capacity`, the room for keys and values.

    Raises:
        BenchmarkError: `tokens` exceeds `capacity`.
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
        ends: the tokens that end the text; if there are none, `count` tokens are added.
        temperature: 0 to take the most likely token; above 0 to sample from the softmax of logits / temperature.
        seed: the seed of the sampling.

    Returns:
        The new tokens, without the one that ended the text.

    Raises:
        BenchmarkError: logits are not finite, so that no token is the most likely one; or the tokens do not fit the
            model's context.
    """
    sampler = Sampler(Sampling(temperature, seed=seed))
    first = runtime.prefill(prompt, len(prompt) + count)
    chosen = decode(first, runtime.step, len(prompt), count, ends, sampler, runtime.description)
    return [one.token for one in chosen]


Stage = Callable[[Tensor], Tensor]
"""A function that runs one part of a model, and holds the weights of this part."""


@runtime_checkable
class Layered(Protocol):
    """A model in stages. A method loads the weights of one stage; they are freed when its result is deleted.

    Attributes:
        description: the library, the kernel and the dtype, which tables show beside every number.
        width: the channels of a hidden state.
        dtype: the dtype of the hidden states between stages.
        stages: the number of stages between the embedding and the head.
    """

    description: str
    width: int
    dtype: torch.dtype
    stages: int

    def embedding(self) -> Stage:
        """Return the stage from token ids, int64 [windows, tokens], to hidden states, [windows, tokens, width]."""
        ...

    def stage(self, index: int) -> Stage:
        """Return the stage from hidden states, [windows, tokens, width], to those after it, of the same shape."""
        ...

    def head(self) -> Stage:
        """Return the stage from the last hidden states, [tokens, width], to logits, fp32 [tokens, vocabulary]."""
        ...


@dataclass(frozen=True)
class States:
    """A file of hidden states, [windows, tokens, width], which is read and written by windows.

    The file is not mapped: mapped pages would count as memory of this process, which would grow with the text.
    """

    path: Path
    windows: int
    tokens: int
    width: int
    dtype: torch.dtype

    def read(self, rows: slice) -> Tensor:
        """Read the windows `rows`, [windows, tokens, width].

        Raises:
            BenchmarkError: the file is too short.
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

    If an interrupted call has left states in the folder, the first stage that is missing is the next to run. Damaged
    states, by their hash, are computed again.

    Args:
        model: the model in stages.
        ids: the windows, int64 [windows, tokens].
        folder: a folder for the states of this model and these windows only. At times it holds them twice.
        progress: receives the number of stages that are done.
        what: the words that progress names a stage by.

    Returns:
        The hidden states after the last stage.

    Raises:
        BenchmarkError: a file of an interrupted call is too short.
    """

    windows, tokens = ids.shape

    def states(name: str) -> States:
        return States(folder / name, windows, tokens, model.width, model.dtype)

    def save(done: int, run: Callable[[slice], Tensor]) -> States:
        partial = states("partial")
        for rows in parts(windows, tokens):
            partial.write(rows, run(rows))
        # The hash is in the name, so that both are there at once.
        return states(partial.path.rename(folder / f"states-{done}-{sha256(partial.path)}").name)

    name = _newest_states(folder, model.stages)
    if name is None:
        embed = model.embedding()
        before, done = save(0, lambda rows: embed(ids[rows])), 0
        del embed
    else:
        before, done = states(name), int(name.split("-")[1])
    for index in range(done, model.stages):
        progress.step(what, index, model.stages)
        stage = model.stage(index)
        after = save(index + 1, lambda rows, before=before, stage=stage: stage(before.read(rows)))  # type: ignore[misc]
        del stage
        before.path.unlink()
        before = after
    return before


def _newest_states(folder: Path, stages: int) -> str | None:
    """Return the name of the last states that an interrupted call has left whole, and remove all other states."""
    found = {int(path.name.split("-")[1]): path for path in folder.glob("states-*-*")}
    whole = None
    for done, path in sorted(found.items(), reverse=True):
        if whole is None and done <= stages and path.name == f"states-{done}-{sha256(path)}":
            whole = path.name
        else:
            path.unlink()
    (folder / "partial").unlink(missing_ok=True)
    return whole


@torch.inference_mode()
def logits(model: Layered, ids: Tensor) -> Tensor:
    """Return the logits, fp32 [windows, tokens, vocabulary], of a few windows, int64 [windows, tokens]."""
    states = model.embedding()(ids)
    for index in range(model.stages):
        states = model.stage(index)(states)
    head = model.head()
    return torch.stack([head(window).clone() for window in states])  # a head may use one buffer for all
