"""The reference: the source's weights in fp32 arithmetic, computed once for a source and a text.

The cache keeps the final hidden states, a hundredth of the size of logits. The fp32 head computes exact logits from
them, a few positions at a time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from pythia_quant.bench.drift import MOST_LIKELY, Compared, Known, compare, know
from pythia_quant.core.array_file import load_array
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.files import cache_folder
from pythia_quant.core.precision import exact_products
from pythia_quant.core.progress import Progress
from pythia_quant.model.forward import Fp32Layers, head_weight
from pythia_quant.model.weights import WeightReader
from pythia_quant.runtimes.protocol import States, final_states

VERSION = 1
"""The version of the files of a reference and of their computation: references of another version are not read."""
MOST_CACHE_BYTES = 20_000_000_000
"""While all references take more than this, those that were not used for a day are removed, the oldest first."""
POSITIONS_AT_ONCE = 256
"""The positions whose logits are in memory at a time: 50 MB."""
_DAY = 86_400


@dataclass(frozen=True)
class Positions:
    """What is kept of the reference's logits at some positions.

    Attributes:
        known: the values that a comparison with other logits needs.
        nll: the negative log-likelihood of the next token, fp32 [positions], nats.
    """

    known: Known
    nll: Tensor

    COLUMNS: ClassVar[int] = 3 + MOST_LIKELY

    @classmethod
    def from_logits(cls, logits: Tensor, targets: Tensor) -> Positions:
        """Reduce logits, fp32 [positions, vocabulary]; `targets` are the next tokens, int64 [positions]."""
        known = know(logits)
        return cls(known, known.normalizer - logits.gather(1, targets[:, None])[:, 0])

    @classmethod
    def unpack(cls, packed: Tensor) -> Positions:
        """Undo :meth:`pack`."""
        normalizer, confidence, nll = packed[:, :3].unbind(dim=1)
        return cls(Known(normalizer, packed[:, 3:].long(), confidence), nll)

    def pack(self) -> Tensor:
        """Return all values as one tensor, fp32 [positions, COLUMNS]; fp32 holds token ids exactly."""
        columns = torch.stack((self.known.normalizer, self.known.confidence, self.nll), dim=1)
        return torch.cat([columns, self.known.most_likely.float()], dim=1)


@dataclass(frozen=True)
class Reference:
    """The reference of some windows: a folder that several processes can read.

    Its files are ``ids.npy``, the windows, int64 [windows, context]; ``hidden``, the final hidden states,
    fp32 [windows, context, width]; ``head.npy``, fp32 [vocabulary, width]; and ``known``, packed :class:`Positions`,
    fp32 [windows, context - 1, 8].
    """

    folder: Path

    @cached_property
    def ids(self) -> Tensor:
        """The windows, int64 [windows, context]."""
        return self._load("ids")

    @cached_property
    def nll(self) -> list[float]:
        """The mean negative log-likelihood of each window, nats a token."""
        return [float(self._read(window).nll.mean(dtype=torch.float64)) for window in range(len(self.ids))]

    @cached_property
    def confidence(self) -> Tensor:
        """The probability of the most likely token, fp32 [windows, context - 1]."""
        return torch.stack([self._read(window).known.confidence.clone() for window in range(len(self.ids))])

    @cached_property
    def _head(self) -> Tensor:
        return self._load("head").T

    def compare(self, window: int, logits: list[Callable[[slice], Tensor]]) -> list[list[Compared]]:
        """Compare several sets of logits of one window with the reference's, which are computed only once.

        Args:
            window: the window's index.
            logits: for each set a function that returns the logits of some positions, [positions, vocabulary].

        Returns:
            For each set the comparisons of consecutive parts of the window, which has all positions but the last.
        """
        targets = self.ids[window, 1:]
        windows, context = self.ids.shape
        states = States(self.folder / "hidden", windows, context, len(self._head), torch.float32)
        hidden, known = states.read(slice(window, window + 1))[0], self._read(window).known
        comparisons: list[list[Compared]] = [[] for _ in logits]
        for start in range(0, len(targets), POSITIONS_AT_ONCE):
            rows = slice(start, min(start + POSITIONS_AT_ONCE, len(targets)))
            with exact_products():
                expected = torch.matmul(hidden[rows], self._head, out=self._buffer.resize_(0))
            for parts, logits_at in zip(comparisons, logits, strict=True):
                parts.append(compare(expected, known[rows], logits_at(rows), targets[rows]))
        return comparisons

    @cached_property
    def _buffer(self) -> Tensor:
        return torch.empty(0)  # one for all products: the first touch of new memory takes longer than a product

    def _read(self, window: int) -> Positions:
        return Positions.unpack(_stored_positions(self.folder, self.ids).read(slice(window, window + 1))[0])

    def _load(self, name: str) -> Tensor:
        dtype = np.int64 if name == "ids" else np.float32
        path = self.folder / f"{name}.npy"
        return torch.from_numpy(
            load_array(path, dtype, (None, None), BenchmarkError, "remove its folder and run again")
        )


def reference(
    reader: WeightReader, identity: dict[str, str], ids: Tensor, progress: Progress, folder: Path | None = None
) -> Reference:
    """Return the reference of a source on some windows, from the cache if it is there; otherwise compute and cache it.

    A computation that was interrupted goes on where it ended. A reference with a file that was cut short, for example
    by a full disk, is computed again.

    Args:
        reader: the source's weights.
        identity: the SHA-256 of each weight file by name; a cached reference is found by these and the windows.
        ids: the windows, int64 [windows, context].
        progress: receives how far the work is.
        folder: the folder that holds all references; by default, one in the cache.

    Raises:
        BenchmarkError: the disk is too small for the reference, or the folder cannot be written.
    """
    folder = folder or cache_folder("references")
    key = _key(reader, identity, ids)
    target, work = folder / key, folder / f"{key}.work"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            if target.exists() and not _is_whole(target, reader, ids):
                shutil.rmtree(target)
            if not target.exists():
                _check_space(folder, reader, ids)
                _remove_old(folder)
                work.mkdir(exist_ok=True)
                _make(reader, ids, work, progress)
                work.rename(target)
        os.utime(target)
    except OSError as error:
        hint = "name another folder in PYTHIA_QUANT_CACHE"
        raise BenchmarkError(f"the reference cannot be kept ({error})", where=str(folder), hint=hint) from error
    return Reference(target)


def _is_whole(folder: Path, reader: WeightReader, ids: Tensor) -> bool:
    """Say whether a reference has all its files in their full sizes, and these windows."""
    windows, context = ids.shape
    shape = reader.architecture
    sizes = {"hidden": 4 * windows * context * shape.width, "known": 4 * windows * (context - 1) * Positions.COLUMNS}
    try:
        load_array(folder / "head.npy", np.float32, (shape.vocabulary, shape.width), BenchmarkError, mapped=True)
        stored = load_array(folder / "ids.npy", np.int64, (windows, context), BenchmarkError)
    except BenchmarkError:
        return False
    return bool((stored == ids.numpy()).all()) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()
    )


def _make(reader: WeightReader, ids: Tensor, work: Path, progress: Progress) -> None:
    model = Fp32Layers(reader)
    hidden = final_states(model, ids, work, progress)
    head, stored = model.head(), _stored_positions(work, ids)
    for window, targets in enumerate(ids[:, 1:]):
        progress.step("window", window, len(ids))
        states = hidden.read(slice(window, window + 1))[0]
        parts = []
        for start in range(0, len(targets), POSITIONS_AT_ONCE):
            rows = slice(start, min(start + POSITIONS_AT_ONCE, len(targets)))
            parts.append(Positions.from_logits(head(states[rows]), targets[rows]).pack())
        stored.write(slice(window, window + 1), torch.cat(parts))
    np.save(work / "ids.npy", ids.numpy())
    np.save(work / "head.npy", head_weight(reader).numpy())
    hidden.path.rename(work / "hidden")


def _stored_positions(folder: Path, ids: Tensor) -> States:
    return States(folder / "known", len(ids), ids.shape[1] - 1, Positions.COLUMNS, torch.float32)


def _key(reader: WeightReader, identity: dict[str, str], ids: Tensor) -> str:
    digest = hashlib.sha256(repr((VERSION, sorted(identity.items()), reader.architecture, tuple(ids.shape))).encode())
    digest.update(ids.numpy().tobytes())
    return digest.hexdigest()[:32]


def _check_space(folder: Path, reader: WeightReader, ids: Tensor) -> None:
    shape = reader.architecture
    needed = 4 * shape.width * (2 * ids.numel() + shape.vocabulary)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BenchmarkError(
            f"the reference needs {needed / 1e9:.1f} GB while it is computed, {free / 1e9:.1f} GB are free",
            where=str(folder),
            hint="name another folder in PYTHIA_QUANT_CACHE",
        )


def _remove_old(folder: Path) -> None:
    references = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in references}
    for path in references:
        if sum(sizes.values()) > MOST_CACHE_BYTES and path.stat().st_mtime < time.time() - _DAY:
            doomed = path.rename(
                path.with_suffix(".old")
            )  # so that an interruption leaves no half reference by its name
            shutil.rmtree(doomed)
            del sizes[path]
