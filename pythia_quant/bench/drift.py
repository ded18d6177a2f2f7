"""The arithmetic of drift: logits beside the reference's, token by token, a few positions at a time, and summed up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pythia_quant.bench.statistics import of_windows
from pythia_quant.records.results import CONFIDENCES, ConfidenceBin, Drift, Quantile

_LOGITS_AT_ONCE = 2**18  # temporaries of this size stay in the cache

MOST_LIKELY = 5

_TRUSTED = (-0.9, 10.0)


@dataclass(frozen=True)
class Known:
    """What is known of the reference at some positions.

    Attributes:
        normalizer: log of the sum of exp of its logits, fp32 [tokens].
        most_likely: its five most likely tokens, the first of them first, int64 [tokens, 5].
        confidence: probability of the most likely one, fp32 [tokens].
    """

    normalizer: Tensor
    most_likely: Tensor
    confidence: Tensor

    def __getitem__(self, rows: slice) -> Known:
        return Known(self.normalizer[rows], self.most_likely[rows], self.confidence[rows])


@dataclass(frozen=True)
class Compared:
    """Positions that were compared, each fp32 [tokens]; all but `top1` and `top5` are nats.

    Attributes:
        nll: negative log-likelihood of the token that follows.
        kl: KL divergence from the reference; NaN where a logit is not finite.
        top1: 1 where the most likely token is the reference's, else 0.
        top5: the share of the reference's five most likely tokens that are among the five most likely of these logits.
    """

    nll: Tensor
    kl: Tensor
    top1: Tensor
    top5: Tensor


def know(logits: Tensor) -> Known:
    """Take from the reference's logits, fp32 [tokens, vocabulary], what every comparison needs."""
    parts = []
    for rows in _chunks(*logits.shape):
        part = logits[rows]
        normalizer, likely = part.logsumexp(-1), most_likely(part)
        parts.append((normalizer, likely, (part.gather(1, likely[:, :1])[:, 0] - normalizer).exp()))
    return Known(*map(torch.cat, zip(*parts, strict=True)))


@torch.inference_mode()
def compare(reference: Tensor, known: Known, logits: Tensor, targets: Tensor) -> Compared:
    """Compare logits with the reference's.

    With p the reference's probabilities and d the differences of the logits, the normalizers differ by
    g = ln(1 + sum p (exp d - 1)), and KL(reference ‖ other) = g - sum p d. Where d is small, so are both terms: nothing
    large cancels, as it would between two log-softmaxes, and a second one is not needed.

    Args:
        reference: fp32 [tokens, vocabulary].
        known: of the same positions.
        logits: to compare, [tokens, vocabulary].
        targets: the tokens that follow, int64 [tokens].
    """
    parts = [
        _compare(reference[rows], known[rows], logits[rows].float(), targets[rows])
        for rows in _chunks(*reference.shape)
    ]
    return Compared(*map(torch.cat, zip(*parts, strict=True)))


def _compare(reference: Tensor, known: Known, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    probabilities = torch.sub(reference, known.normalizer[:, None]).exp_()
    difference = torch.sub(logits, reference)
    mean = torch.linalg.vecdot(probabilities, difference)
    growth = torch.linalg.vecdot(probabilities, difference.expm1_())
    shift = growth.log1p()
    kl = shift - mean
    nll = known.normalizer + shift - logits.gather(1, targets[:, None])[:, 0]
    # Far from the reference exp overflows, or what is left of 1 + growth is rounding: those few positions in fp64.
    far = ~((growth > _TRUSTED[0]) & (growth < _TRUSTED[1]))
    if far.any():
        kl[far], nll[far] = _compare_exactly(reference[far], logits[far], targets[far])
    likely = most_likely(logits)
    top1 = (likely[:, 0] == known.most_likely[:, 0]).float()
    fifth = logits.gather(1, likely).amin(1, keepdim=True)  # compared by value: many logits are equal in bf16
    top5 = (logits.gather(1, known.most_likely) >= fifth).float().mean(1)
    return nll, kl, top1, top5


def _compare_exactly(reference: Tensor, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    p, q = reference.double().log_softmax(-1), logits.double().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    # Of a logit of minus infinity the sum may be finite, or infinite: it counts as not finite all the same.
    return kl.where(logits.isfinite().all(-1), torch.nan).float(), -q.gather(1, targets[:, None])[:, 0].float()


def most_likely(logits: Tensor) -> Tensor:
    """Return the five largest of each row, int64 [tokens, 5]; the largest first, and of equal largest ones the lowest.

    They lie in the five blocks with the largest maxima: finding those reads every logit once, in order, which a search
    for five among all does not.
    """
    tokens, vocabulary = logits.shape
    block = next((size for size in (128, 64, 32, 16) if vocabulary % size == 0), 0)
    if not block or vocabulary // block < MOST_LIKELY:
        found = logits.topk(MOST_LIKELY).indices
        first = logits.argmax(-1, keepdim=True)
    else:
        blocks = logits.view(tokens, -1, block)
        maxima = blocks.amax(-1)
        chosen = maxima.topk(MOST_LIKELY).indices
        candidates = blocks.gather(1, chosen[:, :, None].expand(-1, -1, block)).flatten(1)
        places = candidates.topk(MOST_LIKELY).indices
        found = chosen.gather(1, places // block) * block + places % block
        leading = maxima.argmax(-1, keepdim=True)
        within = blocks.gather(1, leading[:, :, None].expand(-1, -1, block))[:, 0].argmax(-1, keepdim=True)
        first = leading * block + within
    # Where several are equally large, the first one may not lead, or not even be among those found.
    place = (found == first).int().argmax(-1, keepdim=True)
    return found.scatter(1, place, found[:, :1]).scatter(1, torch.zeros_like(place), first)


def _chunks(tokens: int, vocabulary: int) -> list[slice]:
    at_once = max(1, _LOGITS_AT_ONCE // vocabulary)
    return [slice(start, start + at_once) for start in range(0, tokens, at_once)]


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
