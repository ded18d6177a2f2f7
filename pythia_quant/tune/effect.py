"""The KL divergence of a model in which one tensor is changed, on the search windows.

The hidden states of the original model before every layer are kept in files. So a change of layer k costs the layers
from k on, and a change of the head only the head. Logits are computed at some positions of every window: neighbouring
ones are alike, and a product with the head costs as much as several layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pythia_quant.bench.drift import divergence
from pythia_quant.core.precision import exact_products
from pythia_quant.core.progress import Progress
from pythia_quant.model.architecture import FINAL_NORM
from pythia_quant.model.forward import (
    Fp32Layers,
    LayerWeights,
    head_weight,
    layer_forward,
    normalize,
    parts,
    read_layer,
)
from pythia_quant.model.weights import WeightReader
from pythia_quant.runtimes.protocol import States

POSITIONS = 64
"""The most positions of a window at which logits are compared, evenly spaced."""
_AT_ONCE = 256


class Effects:
    """Measures what changes of single tensors cost.

    Args:
        source: the source's weights.
        ids: the search windows, int64 [windows, tokens].
        folder: the folder for hidden states; what an earlier call has left there is used.

    Attributes:
        positions: the positions that are compared, int64 [positions].
    """

    def __init__(self, source: WeightReader, ids: Tensor, folder: Path) -> None:
        self._source, self._ids, self._folder, self._shape = source, ids, folder, source.architecture
        tokens = ids.shape[1] - 1
        self.positions = torch.arange(tokens)[:: -(-tokens // POSITIONS)]
        norm = {f"{FINAL_NORM}.{part}": source.read(f"{FINAL_NORM}.{part}").float() for part in ("weight", "bias")}
        self._norm = norm

    def before(self, layer: int) -> States:
        """The original model's hidden states before a layer, or after the last one, fp32 [windows, tokens, width]."""
        windows, tokens = self._ids.shape
        return States(self._folder / f"states-{layer}", windows, tokens, self._shape.width, torch.float32)

    @torch.inference_mode()
    def prepare(self, progress: Progress) -> None:
        """Compute the original model's states and normalizers, where an earlier call has not."""
        self._folder.mkdir(parents=True, exist_ok=True)
        model = Fp32Layers(self._source)
        for index in range(self._shape.layers + 1):
            if (path := self.before(index).path).exists():
                continue
            progress.step("states before layer", index, self._shape.layers)
            stage = model.embedding() if index == 0 else model.stage(index - 1)
            partial = replace(self.before(index), path=self._folder / "partial")
            for rows in parts(*self._ids.shape):
                partial.write(rows, stage(self._ids[rows] if index == 0 else self.before(index - 1).read(rows)))
            partial.path.rename(path)
        self._final = self._select(self.before(self._shape.layers).read(slice(None)))
        self._head = head_weight(self._source)
        with exact_products():
            self._normalizer = torch.cat([(rows @ self._head.T).logsumexp(-1) for rows in self._final.split(_AT_ONCE)])

    def _select(self, hidden: Tensor) -> Tensor:
        chosen = hidden[:, self.positions].flatten(0, 1)
        return normalize(self._shape, self._norm, FINAL_NORM, chosen)

    @torch.inference_mode()
    def of_layer(self, index: int, changed: Sequence[LayerWeights]) -> list[list[float]]:
        """Return the KL divergence of each window, nats a token, for each of some versions of a layer, fp32."""
        states = []
        for layer in changed:
            hidden = self.before(index).read(slice(None))
            states.append(self._run(layer, hidden, index + 1))
        return self._compare(states)

    @torch.inference_mode()
    def of_embeddings(self, tables: Sequence[Tensor]) -> list[list[float]]:
        """Return the same for each of some embedding matrices, fp32 [vocabulary, width]."""
        return self._compare([self._run(None, F.embedding(self._ids, table), 0) for table in tables])

    @torch.inference_mode()
    def of_heads(self, heads: Sequence[Tensor]) -> list[list[float]]:
        """Return the same for each of some heads, fp32 [vocabulary, width]."""
        return [self._compare([self._final], head)[0] for head in heads]

    @torch.no_grad()  # rounding in threads of its own writes into tensors, which inference mode would not let it
    def of_model(self, table: Tensor, layer: Callable[[int], LayerWeights], head: Tensor) -> list[float]:
        """Return the same of a model in which every tensor may be changed.

        Args:
            table: the embedding matrix, fp32 [vocabulary, width].
            layer: a function from a layer's index to its fp32 tensors.
            head: fp32 [vocabulary, width].
        """
        hidden = F.embedding(self._ids, table)
        for index in range(self._shape.layers):
            weights = layer(index)
            with exact_products():
                for rows in parts(*self._ids.shape):
                    hidden[rows] = layer_forward(self._shape, weights, hidden[rows])
        return self._compare([self._select(hidden)], head)[0]

    def _run(self, layer: LayerWeights | None, hidden: Tensor, following: int) -> Tensor:
        """Apply a layer, if one is given, and all layers from `following` on; return the selected final states."""
        for index in range(following - (layer is not None), self._shape.layers):
            weights = layer if layer is not None and index == following - 1 else read_layer(self._source, index)
            with exact_products():
                for rows in parts(*self._ids.shape):
                    hidden[rows] = layer_forward(self._shape, weights, hidden[rows])
        return self._select(hidden)

    def _compare(self, states: Sequence[Tensor], head: Tensor | None = None) -> list[list[float]]:
        """Compare logits of final states, [windows * positions, width], with the original model's."""
        found: list[list[Tensor]] = [[] for _ in states]
        changed = self._head if head is None else head
        with exact_products():
            for start in range(0, len(self._final), _AT_ONCE):
                rows = slice(start, start + _AT_ONCE)
                expected, normalizer = self._final[rows] @ self._head.T, self._normalizer[rows]
                for values, hidden in zip(found, states, strict=True):
                    values.append(_kl(expected, normalizer, hidden[rows] @ changed.T))
        windows = len(self._ids)
        return [torch.cat(values).view(windows, -1).numpy().mean(1, dtype=np.float64).tolist() for values in found]


_LOGITS_AT_ONCE = 2**18  # temporaries of this size stay in the processor's cache


def _kl(expected: Tensor, normalizer: Tensor, logits: Tensor) -> Tensor:
    at_once = max(1, _LOGITS_AT_ONCE // expected.shape[1])
    pieces = zip(*(tensor.split(at_once) for tensor in (expected, normalizer, logits)), strict=True)
    return torch.cat([divergence(*piece)[0] for piece in pieces])
