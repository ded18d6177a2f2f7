"""Whether the baseline agrees with what was published of its model: if not, it is not the model it is taken for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from pythia_quant.bench.metrics import last_word_accuracy, last_word_perplexity
from pythia_quant.model import suite
from pythia_quant.model.published import Evaluation, evaluations
from pythia_quant.records.results import Results

PASSAGES = 5_153
LAMBADA_SHA256 = "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226"
"""The number of passages, and the hash, of the file that lm-evaluation-harness measures as ``lambada_openai``."""

ACCURACY_MARGIN, PERPLEXITY_MARGIN = 0.5, 0.005
"""What other kernels, and rounding log-probabilities to fp16 as the harness does, may change: points, and a share.

docs/protocols.md says what they changed where we measured it."""

_QUANTILE = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Agreement:
    """One value of the baseline beside the published one.

    Attributes:
        metric: the metric's key.
        unit: the unit of all numbers; empty for a perplexity.
        measured: the value of the baseline.
        published: the published value.
        published_margin: half of its 95 % interval.
        tolerance: the largest difference of both that is within error.
    """

    metric: str
    unit: str
    measured: float
    published: float
    published_margin: float
    tolerance: float

    @property
    def name(self) -> str:
        """What was measured, for people who know that it is LAMBADA."""
        return self.metric.removeprefix("lambada_")

    @property
    def agrees(self) -> bool:
        """Whether the values are within error of each other; a value that is not finite is not."""
        return abs(self.measured - self.published) <= self.tolerance


def lambada_agreement(results: Results) -> list[Agreement]:
    """Return the baseline's accuracy (percent) and perplexity on LAMBADA beside the published ones.

    The difference is within error up to the two-sided 95 % quantile of both standard errors, and a margin for kernels.
    Both errors are those of a sample of passages. As the passages are the same, this allows more than chance explains.

    Returns:
        Both values; empty if none were published of this model and revision, or if they were measured otherwise.
    """
    published = _published(results)
    measured = results.row(results.baseline).lambada
    if published is None or measured is None or _otherwise(results):
        return []
    accuracy, perplexity = last_word_accuracy(measured), last_word_perplexity(measured)
    share, theirs = published.accuracy["lambada_openai"], published.lambada_perplexity
    share_error = math.sqrt(share * (1 - share) / PASSAGES)
    return [
        Agreement(
            "lambada_accuracy", "%", 100 * accuracy.value, 100 * share, 100 * _QUANTILE * share_error,
            100 * _QUANTILE * math.hypot(accuracy.error, share_error) + ACCURACY_MARGIN,
        ),
        Agreement(
            "lambada_perplexity", "", perplexity.value, theirs, _QUANTILE * published.lambada_perplexity_error,
            _QUANTILE * math.hypot(perplexity.error, published.lambada_perplexity_error) + PERPLEXITY_MARGIN * theirs,
        ),
    ]  # fmt: skip


def describe_published(results: Results) -> str:
    """Return what was published of the model on LAMBADA, and whether the baseline agrees; empty if there is nothing."""
    published = _published(results)
    if published is None or results.row(results.baseline).lambada is None:
        return ""
    if why := _otherwise(results):
        share = 100 * published.accuracy["lambada_openai"]
        return f"published: accuracy {share:g} %, perplexity {published.lambada_perplexity:g}; not compared: {why}"
    both = lambada_agreement(results)
    said = ", ".join(f"{one.name} {_published_number(one)} ± {one.published_margin:.2f}" for one in both)
    verdict = "agrees within error" if all(one.agrees for one in both) else "does not agree"
    return f"published: {said}; {results.baseline} {verdict} ({', '.join(_number(one.measured, one) for one in both)})"


def disagreement(results: Results) -> str:
    """Return a warning if the baseline does not agree with what was published of its model; empty if it does."""
    apart = [one for one in lambada_agreement(results) if not one.agrees]
    if not apart:
        return ""
    values = " and ".join(
        f"{one.name} is {_number(one.measured, one)}, more than {one.tolerance:.2f} from the published "
        f"{_published_number(one)}"
        for one in apart
    )
    return (
        f"LAMBADA of {results.baseline} is not as published of {results.source.model}: {values}. Either the revision, "
        "the tokenizer or the protocol is not theirs, or the weights are damaged."
    )


def _published(results: Results) -> Evaluation | None:
    """Return what was published of the model; None for a folder, and for a step that is not the last one."""
    source = results.source
    if source.commit is None or source.revision not in ("main", f"step{suite.LAST_STEP}") or results.lambada is None:
        return None
    return evaluations().get(source.model)


def _otherwise(results: Results) -> str:
    """Return why LAMBADA was not measured as by those who published; empty if it was."""
    protocol = results.lambada
    if protocol is None:
        return "it was not measured"
    if protocol.sha256 != LAMBADA_SHA256:
        return "the passages are not those of lm-evaluation-harness"
    if protocol.examples != PASSAGES:
        return f"{protocol.examples:,} of {PASSAGES:,} passages were measured"
    return ""


def _number(value: float, one: Agreement) -> str:
    return f"{value:.2f} {one.unit}".rstrip() if math.isfinite(value) else "not finite"


def _published_number(one: Agreement) -> str:
    return f"{one.published:g} {one.unit}".rstrip()
