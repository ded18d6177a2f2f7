"""The arithmetic of drift: compare logits with the reference's at each position, and sum up over all windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pythia_quant.bench.statistics import mean_of_windows
from pythia_quant.records.results import CONFIDENCES, ConfidenceBin, Drift, Quantile

_LOGITS_AT_ONCE = 2**18  # temporaries of this size stay in the processor's cache

MOST_LIKELY = 5
"""The number of most likely tokens that are compared."""

_EXACT_GROWTH = (-0.9, 10.0)
"""Between these values of sum p (exp d - 1), the fp32 formula of :func:`compare` is exact enough."""


@dataclass(frozen=True)
class ReferenceSummary:
    """What a comparison needs of the reference's logits, apart from the logits themselves.

    Attributes:
        normalizer: the logarithm of the sum of exp of the logits, fp32 [tokens].
        most_likely: the five most likely tokens, the most likely one first, int64 [tokens, 5].
        confidence: the probability of the most likely token, fp32 [tokens].
    """

    normalizer: Tensor
    most_likely: Tensor
    confidence: Tensor

    def __getitem__(self, rows: slice) -> ReferenceSummary:
        return ReferenceSummary(self.normalizer[rows], self.most_likely[rows], self.confidence[rows])


@dataclass(frozen=True)
class TokenDrift:
    """How logits differ from the reference's at single positions. Every field is fp32 [tokens].

    Attributes:
        nll: the negative log-likelihood of the token that follows, nats.
        kl: the KL divergence from the reference, nats; NaN where a logit is not finite.
        top1: 1 where the most likely token is that of the reference, else 0.
        top5: the share of the reference's five most likely tokens that are among the five most likely of these logits.
    """

    nll: Tensor
    kl: Tensor
    top1: Tensor
    top5: Tensor


def summarize(logits: Tensor) -> ReferenceSummary:
    """Compute what every comparison needs of the reference's logits, fp32 [tokens, vocabulary]."""
    parts = []
    for rows in _chunks(*logits.shape):
        part = logits[rows]
        normalizer, likely = part.logsumexp(-1), most_likely(part)
        parts.append((normalizer, likely, (part.gather(1, likely[:, :1])[:, 0] - normalizer).exp()))
    return ReferenceSummary(*map(torch.cat, zip(*parts, strict=True)))


@torch.inference_mode()
def compare(reference: Tensor, summary: ReferenceSummary, logits: Tensor, targets: Tensor) -> TokenDrift:
    """Compare logits with the reference's at the same positions.

    With p the reference's probabilities and d the differences of the logits, the normalizers differ by
    g = ln(1 + sum p (exp d - 1)), and KL(reference ‖ other) = g - sum p d. Where d is small, both terms are small, too.
    The difference of two log-softmaxes would instead cancel large terms, and need a second log-softmax.

    Args:
        reference: the reference's logits, fp32 [tokens, vocabulary].
        summary: the summary of `reference`.
        logits: the logits to compare, [tokens, vocabulary].
        targets: the tokens that follow, int64 [tokens].
    """
    parts = [
        _compare(reference[rows], summary[rows], logits[rows].float(), targets[rows])
        for rows in _chunks(*reference.shape)
    ]
    return TokenDrift(*map(torch.cat, zip(*parts, strict=True)))


def _compare(
    reference: Tensor, summary: ReferenceSummary, logits: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kl, shift = divergence(reference, summary.normalizer, logits)
    nll = summary.normalizer + shift - logits.gather(1, targets[:, None])[:, 0]
    if (far := shift.isnan()).any():
        nll[far] = -logits[far].double().log_softmax(-1).gather(1, targets[far, None])[:, 0].float()
    likely = most_likely(logits)
    top1 = (likely[:, 0] == summary.most_likely[:, 0]).float()
    # The tokens are compared by their logits, not by their ids, because many logits are equal in bf16.
    fifth = logits.gather(1, likely).amin(1, keepdim=True)
    top5 = (logits.gather(1, summary.most_likely) >= fifth).float().mean(1)
    return nll, kl, top1, top5


def divergence(reference: Tensor, normalizer: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the KL divergence from the reference, and by how much the normalizers differ; see :func:`compare`.

    Args:
        reference: the reference's logits, fp32 [tokens, vocabulary].
        normalizer: the logarithm of the sum of exp of them, fp32 [tokens].
        logits: the logits to compare, fp32 [tokens, vocabulary].

    Returns:
        Nats, fp32 [tokens]; and the difference, fp32 [tokens], NaN where it is too far from 0 to be exact.
    """
    probabilities = torch.sub(reference, normalizer[:, None]).exp_()
    difference = torch.sub(logits, reference)
    mean = torch.linalg.vecdot(probabilities, difference)
    growth = torch.linalg.vecdot(probabilities, difference.expm1_())
    shift = growth.log1p()
    kl = shift - mean
    # Far from the reference, exp overflows, or 1 + growth has few exact bits: these few positions are computed in fp64.
    far = ~((growth > _EXACT_GROWTH[0]) & (growth < _EXACT_GROWTH[1]))
    if far.any():
        kl[far], shift[far] = _diverge_exactly(reference[far], logits[far]), torch.nan
    return kl, shift


def _diverge_exactly(reference: Tensor, logits: Tensor) -> Tensor:
    p, q = reference.double().log_softmax(-1), logits.double().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    # With a logit of minus infinity, the sum may be finite or infinite; such a position always counts as not finite.
    return kl.where(logits.isfinite().all(-1), torch.nan).float()


def most_likely(logits: Tensor) -> Tensor:
    """Return the tokens with the five largest logits at each position, int64 [tokens, 5], the largest first.

    If several logits are equally large, the token with the lowest id is first.

    The five lie in the five blocks with the largest maxima. To find those blocks, every logit is read once and in
    order; a search for five among all logits would be slower.
    """
    tokens, vocabulary = logits.shape
    block = next((size for size in (128, 64, 32, 16) if vocabulary % size == 0), 0)
    if not block or vocabulary // block < MOST_LIKELY:
        top = logits.topk(MOST_LIKELY).indices
        first = logits.argmax(-1, keepdim=True)
    else:
        blocks = logits.view(tokens, -1, block)
        maxima = blocks.amax(-1)
        chosen = maxima.topk(MOST_LIKELY).indices
        candidates = blocks.gather(1, chosen[:, :, None].expand(-1, -1, block)).flatten(1)
        places = candidates.topk(MOST_LIKELY).indices
        top = chosen.gather(1, places // block) * block + places % block
        leading = maxima.argmax(-1, keepdim=True)
        within = blocks.gather(1, leading[:, :, None].expand(-1, -1, block))[:, 0].argmax(-1, keepdim=True)
        first = leading * block + within
    # If several logits are equally large, topk may put the lowest id anywhere, or leave it out.
    place = (top == first).int().argmax(-1, keepdim=True)
    return top.scatter(1, place, top[:, :1]).scatter(1, torch.zeros_like(place), first)


def _chunks(tokens: int, vocabulary: int) -> list[slice]:
    at_once = max(1, _LOGITS_AT_ONCE // vocabulary)
    return [slice(start, start + at_once) for start in range(0, tokens, at_once)]


QUANTILES = (0.5, 0.9, 0.99)
"""The quantiles of the KL divergence that a result has."""
HISTOGRAM_DECADES, BINS_PER_DECADE = (-12, 2), 10
"""The decimal logarithms at which the histogram begins and ends, and its bins between two of them."""

Array = NDArray[Any]


class Tally:
    """Collects the comparisons of all windows: two numbers for each position, and no logits."""

    def __init__(self) -> None:
        self._nll: list[float] = []
        self._kl: list[Tensor] = []
        self._top1: list[Tensor] = []
        self._top5: list[float] = []

    def add(self, parts: Sequence[TokenDrift]) -> None:
        """Add one window, whose consecutive parts were compared one by one."""
        self._nll.append(_mean([part.nll for part in parts]))
        self._top5.append(_mean([part.top5 for part in parts]))
        self._kl.append(torch.cat([part.kl for part in parts]))
        self._top1.append(torch.cat([part.top1 for part in parts]) > 0)

    def drift(self, confidence: Tensor) -> Drift:
        """Sum up all windows that were added.

        Args:
            confidence: the reference's probability of its most likely token, fp32 [windows, tokens].

        Returns:
            The drift; with nothing but the number of positions that are not finite, if there are any.
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
    """Return the `share` quantile, 0 to 1, of all values, [windows, tokens], with its 95 % interval.

    The interval is Woodruff's (JASA 47, 1952). The share of values below the quantile is a mean over windows, and that
    mean has an interval. The quantiles at the ends of that interval are the ends of this one.
    """
    middle = float(np.quantile(values, share))
    margin = mean_of_windows((values <= middle).mean(1)).margin
    low, high = np.quantile(values, [max(share - margin, 0.0), min(share + margin, 1.0)])
    # A divergence is never negative, but rounding puts some of the smallest just below 0.
    return Quantile(share=share, value=max(middle, 0.0), low=max(float(low), 0.0), high=max(float(high), 0.0))


def histogram(values: Array) -> list[int]:
    """Count values by their decimal logarithm; the first and the last bin also count what lies outside, such as 0."""
    first, last = HISTOGRAM_DECADES
    bins = (last - first) * BINS_PER_DECADE
    decades = np.log10(np.maximum(values, 10.0**first))
    places = np.floor((decades - first) * BINS_PER_DECADE).astype(int).clip(0, bins - 1)
    return [int(count) for count in np.bincount(places.ravel(), minlength=bins)]


def by_confidence(kl: Array, top1: Array, confidence: Array) -> list[ConfidenceBin]:
    """Return the mean divergence and agreement of the positions in each bin of the reference's confidence.

    The number of positions in a bin varies from window to window, which the standard error takes into account. A bin
    with fewer than two positions is left out.

    Args:
        kl: the KL divergences, nats, [windows, tokens].
        top1: whether the most likely tokens agree, [windows, tokens].
        confidence: the reference's probability of its most likely token, [windows, tokens].
    """
    bins = []
    for low, high in pairwise(CONFIDENCES):
        inside = (confidence >= low) & ((confidence < high) | (high == 1.0))
        tokens = int(inside.sum())
        if tokens < 2:
            continue
        sums, counts = (kl * inside).sum(1, dtype=np.float64), inside.sum(1)
        mean = mean_of_windows(sums, counts)
        agreement = float((top1 * inside).sum(dtype=np.float64) / tokens)
        bins.append(
            ConfidenceBin(low=low, high=high, tokens=tokens, kl=mean.value, kl_error=mean.error, top1=agreement)
        )
    return bins
