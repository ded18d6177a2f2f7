"""Drift of one set of logits: what was compared token by token, summed up by window and over all tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pythia_quant.bench.comparison import Compared
from pythia_quant.bench.statistics import of_windows
from pythia_quant.records.results import CONFIDENCES, ConfidenceBin, Drift, Quantile

QUANTILES = (0.5, 0.9, 0.99)
HISTOGRAM_DECADES, BINS_PER_DECADE = (-12, 2), 10

Array = NDArray[Any]


class Tally:
    """Collects compared windows; a few numbers a token are kept, the logits are not."""

    def __init__(self) -> None:
        self._nll: list[float] = []
        self._kl: list[Tensor] = []
        self._top1: list[Tensor] = []
        self._top5: list[float] = []

    def add(self, parts: Sequence[Compared]) -> None:
        """Add one window, in parts."""
        self._nll.append(_mean([part.nll for part in parts]))
        self._top5.append(_mean([part.top5 for part in parts]))
        self._kl.append(torch.cat([part.kl for part in parts]))
        self._top1.append(torch.cat([part.top1 for part in parts]) > 0)

    def drift(self, confidence: Tensor) -> Drift:
        """Sum up.

        Args:
            confidence: the reference's probability of its most likely token, fp32 [windows, tokens].
        """
        kl, top1 = torch.stack(self._kl).numpy(), torch.stack(self._top1).numpy()
        non_finite = int((~np.isfinite(kl)).sum())
        if non_finite:
            return Drift(nll=[], kl=[], top1=[], non_finite=non_finite)
        return Drift(
            nll=self._nll,
            kl=kl.mean(1, dtype=np.float64).tolist(),
            top1=top1.mean(1, dtype=np.float64).tolist(),
            top5=self._top5,
            kl_quantiles=[quantile(kl, share) for share in QUANTILES],
            kl_histogram=histogram(kl),
            by_confidence=by_confidence(kl, top1, confidence.numpy()),
        )


def _mean(parts: Sequence[Tensor]) -> float:
    return float(torch.cat(list(parts)).mean(dtype=torch.float64))


def quantile(values: Array, share: float) -> Quantile:
    """Return a quantile of all values, [windows, tokens].

    Its interval is Woodruff's (JASA 47, 1952): the share of values below it is a mean over windows with a standard
    error, and the quantiles at the ends of that mean's interval are the ends of this one.
    """
    middle = float(np.quantile(values, share))
    margin = of_windows((values <= middle).mean(1)).margin
    low, high = np.quantile(values, [max(share - margin, 0.0), min(share + margin, 1.0)])
    # Rounding leaves some of the smallest divergences just below 0.
    return Quantile(share=share, value=max(middle, 0.0), low=max(float(low), 0.0), high=max(float(high), 0.0))


def histogram(values: Array) -> list[int]:
    """Count values by their decimal logarithm; what lies outside, zeros included, is in the first or last bin."""
    first, last = HISTOGRAM_DECADES
    bins = (last - first) * BINS_PER_DECADE
    decades = np.log10(np.maximum(values, 10.0**first))
    places = np.floor((decades - first) * BINS_PER_DECADE).astype(int).clip(0, bins - 1)
    return [int(count) for count in np.bincount(places.ravel(), minlength=bins)]


def by_confidence(kl: Array, top1: Array, confidence: Array) -> list[ConfidenceBin]:
    """Return the mean divergence and agreement by the reference's confidence, all [windows, tokens].

    The tokens of a bin vary from window to window, which the standard error takes into account. A bin
    with fewer than two tokens is left out.
    """
    bins = []
    for low, high in pairwise(CONFIDENCES):
        inside = (confidence >= low) & ((confidence < high) | (high == 1.0))
        tokens = int(inside.sum())
        if tokens < 2:
            continue
        sums, counts = (kl * inside).sum(1, dtype=np.float64), inside.sum(1)
        mean = of_windows(sums, counts)
        agreement = float((top1 * inside).sum(dtype=np.float64) / tokens)
        bins.append(
            ConfidenceBin(low=low, high=high, tokens=tokens, kl=mean.value, kl_error=mean.error, top1=agreement)
        )
    return bins
