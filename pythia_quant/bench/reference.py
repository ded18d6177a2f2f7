"""The reference: the source's weights in fp32 arithmetic, computed once for a source and a text, and kept.

What is kept are final hidden states, of which the fp32 head makes the logits of a few positions at a time: exact, and a
hundredth of the size of logits.
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
"""Of what is kept and how it is computed; a change makes what older programs kept unreadable."""
KEPT_BYTES = 20_000_000_000
"""References that were not used for a day are removed, the oldest first, while all of them take more than this."""
POSITIONS_AT_ONCE = 256
"""Logits of so many positions are in memory: 50 MB."""
_DAY = 86_400


@dataclass(frozen=True)
class Positions:
    """What the reference's logits are reduced to at some positions.

    Attributes:
        known: what a comparison needs.
        nll: negative log-likelihood of the token that follows, fp32 [positions], nats.
    """

    known: Known
    nll: Tensor

    COLUMNS: ClassVar[int] = 3 + MOST_LIKELY

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor) -> Positions:
        """Reduce logits, fp32 [positions, vocabulary], beside the tokens that follow, int64 [positions]."""
        known = know(logits)
        return cls(known, known.normalizer - logits.gather(1, targets[:, None])[:, 0])

    @classmethod
    def unpack(cls, packed: Tensor) -> Positions:
        """Take apart what :meth:`pack` returned."""
        normalizer, confidence, nll = packed[:, :3].unbind(dim=1)
        return cls(Known(normalizer, packed[:, 3:].long(), confidence), nll)

    def pack(self) -> Tensor:
        """Return all of it as fp32 [positions, COLUMNS]; tokens are exact as fp32."""
        columns = torch.stack((self.known.normalizer, self.known.confidence, self.nll), dim=1)
        return torch.cat([columns, self.known.most_likely.float()], dim=1)


@dataclass(frozen=True)
class Reference:
    """A folder that holds windows and their reference, for processes to read.

    Files: ``ids.npy`` int64 [windows, context]; ``hidden`` fp32 [windows, context, width]; ``head.npy`` fp32
    [vocabulary, width]; ``known`` fp32 [windows, context - 1, 8], packed :class:`Positions`.
    """

    folder: Path

    @cached_property
    def ids(self) -> Tensor:
        """The windows, int64 [windows, context]."""
        return self._load("ids")

    @cached_property
    def nll(self) -> list[float]:
        """The reference's negative log-likelihood of each window, nats a token."""
        return [float(self._read(window).nll.mean(dtype=torch.float64)) for window in range(len(self.ids))]

    @cached_property
    def confidence(self) -> Tensor:
        """Its probability of the most likely token, fp32 [windows, context - 1]."""
        return torch.stack([self._read(window).known.confidence.clone() for window in range(len(self.ids))])

    @cached_property
    def _head(self) -> Tensor:
        return self._load("head").T

    def compare(self, window: int, logits: list[Callable[[slice], Tensor]]) -> list[list[Compared]]:
        """Compare several sets of logits of one window with the reference's, which are computed once for all.

        Args:
            window: which.
            logits: functions that give the logits of some positions, [positions, vocabulary].

        Returns:
            For each of them the parts of the window, all positions but the last.
        """
        targets = self.ids[window, 1:]
        windows, context = self.ids.shape
        states = States(self.folder / "hidden", windows, context, len(self._head), torch.float32)
        hidden, known = states.read(slice(window, window + 1))[0], self._read(window).known
        compared: list[list[Compared]] = [[] for _ in logits]
        for start in range(0, len(targets), POSITIONS_AT_ONCE):
            rows = slice(start, min(start + POSITIONS_AT_ONCE, len(targets)))
            with exact_products():
                expected = torch.matmul(hidden[rows], self._head, out=self._buffer.resize_(0))
            for parts, of in zip(compared, logits, strict=True):
                parts.append(compare(expected, known[rows], of(rows), targets[rows]))
        return compared

    @cached_property
    def _buffer(self) -> Tensor:
        return torch.empty(0)  # one for all: the first touch of new memory takes longer than the product

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
    """Return the reference of a source on some windows: the one that is kept, or a new one, which then is kept.

    An interrupted computation is gone on with; what is kept and was cut short, by a full disk say, is made anew.

    Args:
        reader: the source's weights.
        identity: their hashes: what is kept is found by content.
        ids: int64 [windows, context].
        progress: told what is computed, how much is done, and of how much.
        folder: where references are kept; the cache unless given.

    Raises:
        BenchmarkError: there is no room for it, or the folder cannot be written.
    """
    folder = folder or cache_folder("references")
    key = _key(reader, identity, ids)
    kept, work = folder / key, folder / f"{key}.work"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            if kept.exists() and not _is_whole(kept, reader, ids):
                shutil.rmtree(kept)
            if not kept.exists():
                _check_space(folder, reader, ids)
                _remove_old(folder)
                work.mkdir(exist_ok=True)
                _make(reader, ids, work, progress)
                work.rename(kept)
        os.utime(kept)
    except OSError as error:
        hint = "name another folder in PYTHIA_QUANT_CACHE"
        raise BenchmarkError(f"the reference cannot be kept ({error})", where=str(folder), hint=hint) from error
    return Reference(kept)


def _is_whole(kept: Path, reader: WeightReader, ids: Tensor) -> bool:
    """Say whether a kept reference has all its files, of the sizes that they must have, and the windows."""
    windows, context = ids.shape
    shape = reader.architecture
    sizes = {"hidden": 4 * windows * context * shape.width, "known": 4 * windows * (context - 1) * Positions.COLUMNS}
    try:
        load_array(kept / "head.npy", np.float32, (shape.vocabulary, shape.width), BenchmarkError, mapped=True)
        stored = load_array(kept / "ids.npy", np.int64, (windows, context), BenchmarkError)
    except BenchmarkError:
        return False
    return bool((stored == ids.numpy()).all()) and all(
        (kept / name).is_file() and (kept / name).stat().st_size == size for name, size in sizes.items()
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
            parts.append(Positions.of(head(states[rows]), targets[rows]).pack())
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
    kept = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in kept}
    for path in kept:
        if sum(sizes.values()) > KEPT_BYTES and path.stat().st_mtime < time.time() - _DAY:
            doomed = path.rename(path.with_suffix(".old"))  # what is kept is whole, whenever this is interrupted
            shutil.rmtree(doomed)
            del sizes[path]
