"""The reference: the logits of the source's weights in fp32 arithmetic, computed once for a source and a text.

The cache keeps the final hidden states, which have a hundredth of the size of the logits. The logits are computed from
them again with the fp32 head, a few positions at a time.
"""

from __future__ import annotations

import hashlib
import json
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

from pythia_quant.bench.drift import MOST_LIKELY, ReferenceSummary, TokenDrift, compare, summarize
from pythia_quant.core.array_file import load_array
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.files import cache_folder, replace_file
from pythia_quant.core.foreign_files import read_json
from pythia_quant.core.precision import exact_products
from pythia_quant.core.progress import Progress
from pythia_quant.model.forward import Fp32Layers, head_weight
from pythia_quant.model.weights import WeightReader
from pythia_quant.runtimes.protocol import States, final_states

VERSION = 1
"""The version of a reference's files and of their computation. References of another version are not read."""
MOST_CACHE_BYTES = 20_000_000_000
"""While all references take more than this, those that were not used for a day are removed, the oldest first."""
POSITIONS_AT_ONCE = 256
"""The positions whose logits are in memory at a time: 50 MB."""
_DAY = 86_400
_FILES, _HASHES = ("ids.npy", "hidden", "head.npy", "known"), "sha256.json"


@dataclass(frozen=True)
class PositionValues:
    """The values that a reference stores of its logits at some positions.

    Attributes:
        summary: the values that a comparison with other logits needs.
        nll: the negative log-likelihood of the next token, fp32 [positions], nats.
    """

    summary: ReferenceSummary
    nll: Tensor

    COLUMNS: ClassVar[int] = 3 + MOST_LIKELY
    """The columns of :meth:`pack`: normalizer, confidence, nll, and the most likely tokens."""

    @classmethod
    def from_logits(cls, logits: Tensor, targets: Tensor) -> PositionValues:
        """Compute the values from logits, fp32 [positions, vocabulary], and the next tokens, int64 [positions]."""
        summary = summarize(logits)
        return cls(summary, summary.normalizer - logits.gather(1, targets[:, None])[:, 0])

    @classmethod
    def unpack(cls, packed: Tensor) -> PositionValues:
        """Return the values that :meth:`pack` has packed."""
        normalizer, confidence, nll = packed[:, :3].unbind(dim=1)
        return cls(ReferenceSummary(normalizer, packed[:, 3:].long(), confidence), nll)

    def pack(self) -> Tensor:
        """Return all values as one tensor, fp32 [positions, COLUMNS]; fp32 holds token ids exactly."""
        columns = torch.stack((self.summary.normalizer, self.summary.confidence, self.nll), dim=1)
        return torch.cat([columns, self.summary.most_likely.float()], dim=1)


@dataclass(frozen=True)
class Reference:
    """The reference of some windows: a folder that several processes can read.

    Its files are:

    - ``ids.npy``: the windows, int64 [windows, context];
    - ``hidden``: the final hidden states, fp32 [windows, context, width];
    - ``head.npy``: the weight of the head, fp32 [vocabulary, width];
    - ``known``: packed :class:`PositionValues`, fp32 [windows, context - 1, 8];
    - ``sha256.json``: the hashes of the others.
    """

    folder: Path

    @cached_property
    def ids(self) -> Tensor:
        """The windows, int64 [windows, context]."""
        return self._load("ids")

    @cached_property
    def nll(self) -> list[float]:
        """The mean negative log-likelihood of each window, nats a token; the windows are read for it."""
        return [float(self._read(window).nll.mean(dtype=torch.float64)) for window in range(len(self.ids))]

    @cached_property
    def confidence(self) -> Tensor:
        """The probability of the most likely token at each position, fp32 [windows, context - 1]."""
        return torch.stack([self._read(window).summary.confidence.clone() for window in range(len(self.ids))])

    @cached_property
    def _head(self) -> Tensor:
        return self._load("head").T

    def compare(self, window: int, logits: list[Callable[[slice], Tensor]]) -> list[list[TokenDrift]]:
        """Compare several sets of logits of one window with the reference's, which are computed once for all sets.

        Args:
            window: the window's index.
            logits: for each set, a function that returns the logits of some positions, [positions, vocabulary].

        Returns:
            For each set, the comparisons of the window's consecutive parts. The last position is not compared, because
            no token follows it.
        """
        targets = self.ids[window, 1:]
        windows, context = self.ids.shape
        states = States(self.folder / "hidden", windows, context, len(self._head), torch.float32)
        hidden, summary = states.read(slice(window, window + 1))[0], self._read(window).summary
        comparisons: list[list[TokenDrift]] = [[] for _ in logits]
        for start in range(0, len(targets), POSITIONS_AT_ONCE):
            rows = slice(start, min(start + POSITIONS_AT_ONCE, len(targets)))
            with exact_products():
                expected = torch.matmul(hidden[rows], self._head, out=self._buffer.resize_(0))
            for parts, logits_at in zip(comparisons, logits, strict=True):
                parts.append(compare(expected, summary[rows], logits_at(rows), targets[rows]))
        return comparisons

    @cached_property
    def _buffer(self) -> Tensor:
        return torch.empty(0)  # one for all products, because the first touch of new memory takes longer than a product

    def _read(self, window: int) -> PositionValues:
        return PositionValues.unpack(_positions_file(self.folder, self.ids).read(slice(window, window + 1))[0])

    def _load(self, name: str) -> Tensor:
        dtype = np.int64 if name == "ids" else np.float32
        path = self.folder / f"{name}.npy"
        return torch.from_numpy(
            load_array(path, dtype, (None, None), BenchmarkError, "remove its folder and run again")
        )


def open_reference(
    reader: WeightReader, identity: dict[str, str], ids: Tensor, progress: Progress, folder: Path | None = None
) -> Reference:
    """Open the reference of a source on some windows. If the cache does not have it, compute it first.

    A computation that was interrupted is continued. A reference with a file that was cut short or changed, for
    example by a failing disk, is computed again.

    Args:
        reader: the source's weights.
        identity: the SHA-256 of each weight file by name; with the windows, they are the key in the cache.
        ids: the windows, int64 [windows, context].
        progress: receives how far the computation is.
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
                _compute(reader, ids, work, progress)
                work.rename(target)
        os.utime(target)
    except OSError as error:
        hint = "name another folder in PYTHIA_QUANT_CACHE"
        raise BenchmarkError(f"the reference cannot be kept ({error})", where=str(folder), hint=hint) from error
    return Reference(target)


def _is_whole(folder: Path, reader: WeightReader, ids: Tensor) -> bool:
    """Return whether a reference is of these windows, and has all its files as they were written."""
    windows, context = ids.shape
    shape = reader.architecture
    sizes = {
        "hidden": 4 * windows * context * shape.width,
        "known": 4 * windows * (context - 1) * PositionValues.COLUMNS,
    }
    try:
        hashes = read_json(folder / _HASHES, BenchmarkError)
        load_array(folder / "head.npy", np.float32, (shape.vocabulary, shape.width), BenchmarkError, mapped=True)
        windows_there = load_array(folder / "ids.npy", np.int64, (windows, context), BenchmarkError)
    except BenchmarkError:
        return False
    if not (windows_there == ids.numpy()).all() or {path.name for path in folder.iterdir()} != {*_FILES, _HASHES}:
        return False
    if any(not (folder / name).is_file() or (folder / name).stat().st_size != size for name, size in sizes.items()):
        return False
    return bool(hashes == {name: sha256(folder / name) for name in _FILES})


def _compute(reader: WeightReader, ids: Tensor, work: Path, progress: Progress) -> None:
    model = Fp32Layers(reader)
    hidden = final_states(model, ids, work, progress)
    head, values = model.head(), _positions_file(work, ids)
    for window, targets in enumerate(ids[:, 1:]):
        progress.step("window", window, len(ids))
        states = hidden.read(slice(window, window + 1))[0]
        parts = []
        for start in range(0, len(targets), POSITIONS_AT_ONCE):
            rows = slice(start, min(start + POSITIONS_AT_ONCE, len(targets)))
            parts.append(PositionValues.from_logits(head(states[rows]), targets[rows]).pack())
        values.write(slice(window, window + 1), torch.cat(parts))
    np.save(work / "ids.npy", ids.numpy())
    np.save(work / "head.npy", head_weight(reader).numpy())
    hidden.path.rename(work / "hidden")
    replace_file(work / _HASHES, json.dumps({name: sha256(work / name) for name in _FILES}))


def _positions_file(folder: Path, ids: Tensor) -> States:
    return States(folder / "known", len(ids), ids.shape[1] - 1, PositionValues.COLUMNS, torch.float32)


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
            # An interruption must not leave half of a reference under its name.
            shutil.rmtree(path.rename(path.with_suffix(".old")))
            del sizes[path]
