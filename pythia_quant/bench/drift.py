"""Drift: the same windows, token by token, against the reference.

The reference is the source's weights in fp32 arithmetic. It is kept as final hidden states, of which the fp32 head
makes the logits of one window at a time: exact, and a hundredth of the size of logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pythia_quant.layerwise import final_hidden_states, head_weight
from pythia_quant.results import Drift
from pythia_quant.weights import WeightReader

_LOGITS_AT_ONCE = 2**18
Logits = Callable[[int], Tensor]
"""Gives the logits of one window, fp32 [context, vocabulary]."""


@dataclass(frozen=True)
class Reference:
    """A folder that holds the windows and the reference, for processes to map.

    Files: ``ids.npy`` int64 [windows, context]; ``hidden.npy`` fp32 [windows, context, width]; ``head.npy`` fp32
    [vocabulary, width].
    """

    folder: Path

    def ids(self) -> Tensor:
        """Return the windows, int64 [windows, context]."""
        return torch.from_numpy(np.load(self.folder / "ids.npy"))

    def logits(self) -> Logits:
        """Return a function that gives the reference's logits of one window."""
        hidden = np.load(self.folder / "hidden.npy", mmap_mode="r")
        head = torch.from_numpy(np.load(self.folder / "head.npy"))
        return _through(head, lambda window: torch.from_numpy(hidden[window].copy()))


def make_reference(
    reader: WeightReader, ids: Tensor, folder: Path, advanced: Callable[[], None] = lambda: None
) -> Reference:
    """Compute the reference of some windows and keep it in `folder`; `advanced` is called after each layer."""
    np.save(folder / "ids.npy", ids.numpy())
    np.save(folder / "hidden.npy", final_hidden_states(reader, ids, advanced).numpy())
    np.save(folder / "head.npy", head_weight(reader).numpy())
    return Reference(folder)


def reader_logits(reader: WeightReader, ids: Tensor) -> Logits:
    """Return a function that gives the logits of one window, from weights in fp32 arithmetic."""
    hidden = final_hidden_states(reader, ids)
    return _through(head_weight(reader), lambda window: hidden[window])


def _through(head: Tensor, hidden: Logits) -> Logits:
    """Return a function that gives a window's logits until its next call.

    They share one buffer: the first touch of 100 MB of new memory takes longer than the product that fills it.
    """
    buffer = torch.empty(0)
    return lambda window: torch.matmul(hidden(window), head.T, out=buffer)


@torch.inference_mode()
def measure_drift(ids: Tensor, reference: Logits, logits: Logits) -> Drift:
    """Compare logits with the reference's, window by window.

    Args:
        ids: int64 [windows, context]; the first token of each window is not predicted.
        reference: logits of the reference.
        logits: logits to compare.
    """
    windows = [_measure_window(reference(i)[:-1], logits(i)[:-1], ids[i, 1:]) for i in range(len(ids))]
    non_finite = sum(window.non_finite for window in windows)
    if non_finite:
        return Drift(nll=[], kl=[], top1=[], non_finite=non_finite)
    return Drift(
        nll=[window.nll for window in windows],
        kl=[window.kl for window in windows],
        top1=[window.top1 for window in windows],
    )


@dataclass(frozen=True)
class _Window:
    nll: float
    kl: float
    top1: float
    non_finite: int


def _measure_window(reference: Tensor, logits: Tensor, targets: Tensor) -> _Window:
    """Measure [tokens, vocabulary] logits a few positions at a time, so that temporaries stay in the cache."""
    nll = kl = top1 = 0.0
    non_finite = 0
    at_once = max(1, _LOGITS_AT_ONCE // logits.shape[1])
    for start in range(0, len(targets), at_once):
        rows = slice(start, start + at_once)
        p, q = reference[rows].log_softmax(-1), logits[rows].float().log_softmax(-1)
        non_finite += int((~q.sum(-1).isfinite()).sum())  # one value that is not finite spoils the sum
        nll -= float(q.gather(1, targets[rows, None]).sum(dtype=torch.float64))
        top1 += float((p.argmax(-1) == q.argmax(-1)).sum())
        kl += _divergence(p, q)
    count = len(targets)
    return _Window(nll / count, kl / count, top1 / count, non_finite)


def _divergence(p: Tensor, q: Tensor) -> float:
    """Return the sum of KL(p ‖ q) over rows of log-probabilities; overwrites both.

    To each term p (ln p - ln q) is added q - p, which sums to 0. No term is negative then, and where p and q are close
    the rounding of their normalization cancels: in fp32 the plain sum is off by 1e-8, not small beside fp16's drift.
    """
    difference = torch.sub(p, q, out=q)
    p = p.exp_()
    if difference.min() < -80:  # exp would overflow; so far apart, the plain sum is exact enough
        return float(p.mul_(difference).sum(dtype=torch.float64))
    return float(torch.neg(difference).expm1_().add_(difference).mul_(p).sum(dtype=torch.float64))


def reference_nll(ids: Tensor, reference: Logits) -> list[float]:
    """Return the reference's own negative log-likelihood of each window, nats a token."""
    return measure_drift(ids, reference, reference).nll
